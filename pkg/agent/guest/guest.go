// Package guest is what a shim asks of the machine itself rather than of a
// container: its details and figures, its clock and randomness, processors and
// memory that were plugged, swap, and files put into the shared folder.
//
// pkg/agent/server calls it, one function for a method. It keeps no state: the
// machine is the state.
package guest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// ErrRequest is returned for a request that makes no sense.
var ErrRequest = errors.New("request is not usable")

const (
	memoryDir = "/sys/devices/system/memory"
	cpuDir    = "/sys/devices/system/cpu"
)

// MemoryBlockSize is the unit in bytes in which memory is plugged, 0 where the
// kernel cannot.
func MemoryBlockSize() (uint64, error) {
	data, err := os.ReadFile(filepath.Join(memoryDir, "block_size_bytes"))
	if errors.Is(err, os.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	size, err := strconv.ParseUint(strings.TrimSpace(string(data)), 16, 64)
	if err != nil {
		return 0, fmt.Errorf("memory block size: %w", err)
	}
	return size, nil
}

// CanProbeMemory says whether plugged memory has to be, and can be, announced
// to the kernel by ProbeMemory.
func CanProbeMemory() bool {
	_, err := os.Stat(filepath.Join(memoryDir, "probe"))
	return err == nil
}

// ProbeMemory tells the kernel of memory at physical addresses.
func ProbeMemory(addresses []uint64) error {
	for _, address := range addresses {
		err := os.WriteFile(filepath.Join(memoryDir, "probe"), fmt.Appendf(nil, "%#x", address), 0)
		if err != nil {
			return fmt.Errorf("announce memory at %#x: %w", address, err)
		}
	}
	return nil
}

// onlineWait bounds the wait for plugged processors to appear.
const onlineWait = 10 * time.Second

// Online brings plugged processors and memory into use. With wait it waits
// until processors more processors are there; 0 stands for those that are.
func Online(ctx context.Context, processors uint32, wait, onlyCPU bool) error {
	if err := onlineProcessors(ctx, int(processors), wait); err != nil {
		return err
	}
	if onlyCPU {
		return nil
	}
	blocks, err := filepath.Glob(filepath.Join(memoryDir, "memory*/online"))
	if err != nil {
		return err
	}
	_, err = switchOn(blocks)
	return err
}

func onlineProcessors(ctx context.Context, wanted int, wait bool) error {
	ctx, cancel := context.WithTimeout(ctx, onlineWait)
	defer cancel()
	online := 0
	// The kernel announces processors too early to be of use.
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		files, err := filepath.Glob(filepath.Join(cpuDir, "cpu[0-9]*/online"))
		if err != nil {
			return err
		}
		n, err := switchOn(files)
		if err != nil {
			return err
		}
		if online += n; !wait || online >= wanted {
			return nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("%d of %d processors came: %w", online, wanted, ctx.Err())
		}
	}
}

// switchOn writes 1 to the files that hold 0, and says how many those were.
func switchOn(files []string) (int, error) {
	count := 0
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			return count, err
		}
		if strings.TrimSpace(string(data)) != "0" {
			continue
		}
		if err := os.WriteFile(file, []byte("1"), 0); err != nil {
			return count, fmt.Errorf("bring %s into use: %w", filepath.Dir(file), err)
		}
		count++
	}
	return count, nil
}

// SetTime sets the clock.
func SetTime(seconds, microseconds int64) error {
	tv := unix.Timeval{Sec: seconds, Usec: microseconds}
	if err := unix.Settimeofday(&tv); err != nil {
		return fmt.Errorf("set the clock: %w", err)
	}
	return nil
}

// rndReseedCRNG is RNDRESEEDCRNG of include/uapi/linux/random.h.
const (
	rndAddToEntCnt = 0x40045201
	rndReseedCRNG  = 0x5207
)

// Reseed mixes data into the kernel's random numbers.
func Reseed(data []byte) error {
	f, err := os.OpenFile("/dev/random", os.O_WRONLY, 0)
	if err != nil {
		return fmt.Errorf("reseed random numbers: %w", err)
	}
	defer f.Close()
	if _, err := f.Write(data); err != nil {
		return fmt.Errorf("reseed random numbers: %w", err)
	}
	// Each byte of the host's is taken for eight bits of entropy.
	bits := int32(len(data) * 8)
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, f.Fd(), rndAddToEntCnt, uintptr(unsafe.Pointer(&bits))); errno != 0 {
		return fmt.Errorf("reseed random numbers: count entropy: %w", errno)
	}
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, f.Fd(), rndReseedCRNG, 0); errno != 0 {
		return fmt.Errorf("reseed random numbers: %w", errno)
	}
	return nil
}

// SwapOn brings a device or file that is formatted as swap into use.
func SwapOn(path string) error {
	p, err := unix.BytePtrFromString(path)
	if err != nil {
		return fmt.Errorf("%w: swap path %q", ErrRequest, path)
	}
	if _, _, errno := unix.Syscall(unix.SYS_SWAPON, uintptr(unsafe.Pointer(p)), 0, 0); errno != 0 {
		return fmt.Errorf("swap on %s: %w", path, errno)
	}
	return nil
}

// DropCaches has the kernel forget names and inodes that nobody uses, and so
// lets go of those on the share, which the host may then unmount.
func DropCaches() error {
	const namesAndInodes = "2"
	if err := os.WriteFile("/proc/sys/vm/drop_caches", []byte(namesAndInodes), 0); err != nil {
		return fmt.Errorf("drop caches: %w", err)
	}
	return nil
}
