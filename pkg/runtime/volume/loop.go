package volume

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/katadirect/katadirect/pkg/directvolume"
	"github.com/katadirect/katadirect/pkg/runtime/vm"
)

// loopMajor is the number of all loop devices.
const loopMajor = 7

// fileOfLoop says what file is behind a loop device, if there is one.
func fileOfLoop(device string) (identity, bool) {
	f, err := os.OpenFile(device, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return identity{}, false
	}
	defer f.Close()
	status, err := unix.IoctlLoopGetStatus64(int(f.Fd()))
	if err != nil {
		return identity{}, false
	}
	return identity{dev: status.Device, ino: status.Inode}, true
}

// checkLoops refuses an image file that the host uses through a loop device: mounted there, or in another machine; and a
// loop device whose file a machine has. QEMU's lock on the file says nothing of the one, and the exclusive open of a block
// device nothing of the other.
func checkLoops(id identity) error {
	if unix.Major(id.rdev) == loopMajor {
		return checkFileOf(id)
	}
	if id.rdev != 0 {
		return nil
	}
	loops, err := filepath.Glob("/sys/block/loop*/loop")
	if err != nil {
		return err
	}
	for _, dir := range loops {
		device := filepath.Join("/dev", filepath.Base(filepath.Dir(dir)))
		if file, ok := fileOfLoop(device); !ok || file != id {
			continue
		}
		f, err := os.OpenFile(device, os.O_RDONLY|unix.O_EXCL, 0)
		if errors.Is(err, unix.EBUSY) {
			return fmt.Errorf("%w: through %s", vm.ErrInUse, device)
		}
		if err == nil {
			err = f.Close()
		}
		if err != nil {
			return fmt.Errorf("%w: %w", directvolume.ErrDevice, err)
		}
	}
	return nil
}

// checkFileOf refuses a loop device whose file a machine has open by its own name.
func checkFileOf(loop identity) error {
	path, err := os.ReadFile(fmt.Sprintf("/sys/dev/block/%d:%d/loop/backing_file", unix.Major(loop.rdev), unix.Minor(loop.rdev)))
	if err != nil {
		return nil // it has none
	}
	f, err := os.OpenFile(strings.TrimSuffix(string(path), "\n"), os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil // by this name nobody has it
	}
	defer f.Close()
	// The bytes by whose locks QEMUs know of each other: from 100 on what one does, from 200 on what others must not.
	lock := unix.Flock_t{Type: unix.F_WRLCK, Start: 100, Len: 200}
	if err := unix.FcntlFlock(f.Fd(), unix.F_OFD_GETLK, &lock); err != nil {
		return fmt.Errorf("%w: who has %s: %w", directvolume.ErrDevice, f.Name(), err)
	}
	if lock.Type != unix.F_UNLCK {
		return fmt.Errorf("%w: a machine has its file %s", vm.ErrInUse, f.Name())
	}
	return nil
}

// loopSetCapacity is LOOP_SET_CAPACITY of include/uapi/linux/loop.h.
const loopSetCapacity = 0x4c07

// readCapacity has a loop device take over the size of its file, which may have grown. For others it does nothing.
func readCapacity(id identity, device string) error {
	if unix.Major(id.rdev) != loopMajor {
		return nil
	}
	f, err := os.Open(device)
	if err != nil {
		return fmt.Errorf("%w: %w", directvolume.ErrDevice, err)
	}
	err = unix.IoctlSetInt(int(f.Fd()), loopSetCapacity, 0)
	if err := errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("%w: read the new size of %s: %w", directvolume.ErrDevice, device, err)
	}
	return nil
}

// sizeOf is the size of a block device or image file in bytes.
func sizeOf(device string) (uint64, error) {
	f, err := os.OpenFile(device, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return 0, fmt.Errorf("%w: %w", directvolume.ErrDevice, err)
	}
	defer f.Close()
	size, err := f.Seek(0, 2)
	if err != nil {
		return 0, fmt.Errorf("%w: size of %s: %w", directvolume.ErrDevice, device, err)
	}
	return uint64(size), nil
}
