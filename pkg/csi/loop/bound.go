package loop

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// detachTimeout bounds how long a detach waits for those who have the device open for a moment, as udev does.
const detachTimeout = 2 * time.Second

// loopMajor is the number of all loop devices.
const loopMajor = 7

// fileID is which file is behind a device.
type fileID struct{ dev, ino uint64 }

// openImage opens a regular file. O_NONBLOCK: what may stand there instead must not hang us.
func openImage(path string, readOnly bool) (*os.File, error) {
	flags := unix.O_RDWR
	if readOnly {
		flags = unix.O_RDONLY
	}
	file, err := os.OpenFile(path, flags|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	if info, err := file.Stat(); err != nil || !info.Mode().IsRegular() {
		return nil, errors.Join(fmt.Errorf("%s is not a regular file", path), err, file.Close())
	}
	return file, nil
}

func fileIDOf(file *os.File) (fileID, error) {
	var stat unix.Stat_t
	if err := unix.Fstat(int(file.Fd()), &stat); err != nil {
		return fileID{}, &os.PathError{Op: "stat", Path: file.Name(), Err: err}
	}
	return fileID{dev: stat.Dev, ino: stat.Ino}, nil
}

func syncImage(path string) error {
	file, err := openImage(path, true)
	if err != nil {
		return err
	}
	return errors.Join(file.Sync(), file.Close())
}

// bound is a loop device that has a file, held open. As long as it is, the device keeps that file.
type bound struct {
	number int
	node   *os.File
	status *unix.LoopInfo64
}

func nodePath(number int) string { return "/dev/loop" + strconv.Itoa(number) }

// openNode opens a loop device's node, for reading: that is enough for every ioctl here.
func openNode(number, flags int) (*os.File, error) {
	node, err := os.OpenFile(nodePath(number), flags|unix.O_CLOEXEC, 0)
	if errors.Is(err, unix.ENOENT) {
		return nil, fmt.Errorf("%w: the driver has to see the host's /dev", err)
	}
	if err != nil {
		return nil, err
	}
	var stat unix.Stat_t
	err = unix.Fstat(int(node.Fd()), &stat)
	if err == nil && (stat.Mode&unix.S_IFMT != unix.S_IFBLK || stat.Rdev != unix.Mkdev(loopMajor, uint32(number))) {
		err = fmt.Errorf("%s is not the loop device %d", node.Name(), number)
	}
	if err != nil {
		return nil, errors.Join(err, node.Close())
	}
	return node, nil
}

// openBound opens a loop device and returns ErrNoDevice if it has no file.
func openBound(number int) (*bound, error) {
	node, err := openNode(number, unix.O_RDONLY)
	if err != nil {
		return nil, err
	}
	status, err := unix.IoctlLoopGetStatus64(int(node.Fd()))
	if errors.Is(err, unix.ENXIO) {
		err = ErrNoDevice
	}
	if err != nil {
		return nil, errors.Join(err, node.Close())
	}
	return &bound{number: number, node: node, status: status}, nil
}

func (b *bound) close() { b.node.Close() }

func (b *bound) fd() int { return int(b.node.Fd()) }

func (b *bound) path() string { return b.node.Name() }

func (b *bound) name() string { return unix.ByteSliceToString(b.status.File_name[:]) }

func (b *bound) readOnly() bool { return b.status.Flags&unix.LO_FLAGS_READ_ONLY != 0 }

func (b *bound) device() Device {
	return Device{
		Path: b.path(), Number: unix.Mkdev(loopMajor, uint32(b.number)),
		ReadOnly: b.readOnly(), DirectIO: b.status.Flags&unix.LO_FLAGS_DIRECT_IO != 0,
	}
}

// has reports whether the device is one over the whole file. A part of a file is another matter.
func (b *bound) has(id fileID) bool {
	return b.status.Device == id.dev && b.status.Inode == id.ino && b.status.Offset == 0 && b.status.Sizelimit == 0
}

// keep takes back a detaching that has only waited for the last one to close the device.
func (b *bound) keep() error {
	if b.status.Flags&unix.LO_FLAGS_AUTOCLEAR == 0 {
		return nil
	}
	b.status.Flags &^= unix.LO_FLAGS_AUTOCLEAR
	return unix.IoctlLoopSetStatus64(b.fd(), b.status)
}

// readSize has the kernel take over the file's size. Nothing happens when it is the same.
func (b *bound) readSize() error { return unix.IoctlSetInt(b.fd(), unix.LOOP_SET_CAPACITY, 0) }

func (b *bound) setReadOnly(readOnly bool) error {
	value := 0
	if readOnly {
		value = 1
	}
	return unix.IoctlSetPointerInt(b.fd(), unix.BLKROSET, value)
}

// checkIdle returns ErrInUse when the device is mounted, or open exclusively as machines have it.
func (b *bound) checkIdle() error {
	node, err := os.OpenFile(b.path(), unix.O_RDONLY|unix.O_EXCL|unix.O_CLOEXEC, 0)
	if errors.Is(err, unix.EBUSY) {
		return fmt.Errorf("%w: %s is mounted, or a virtual machine has it", ErrInUse, b.path())
	}
	if err != nil {
		return err
	}
	return node.Close()
}

// detach unbinds the device. The kernel does that when the last one closes it, so this closes b.
func (b *bound) detach(ctx context.Context) error {
	if err := b.checkIdle(); err != nil {
		return err
	}
	if err := b.setReadOnly(false); err != nil { // or whoever gets the number next finds it so
		return fmt.Errorf("%s: make it writable: %w", b.path(), err)
	}
	if err := unix.IoctlSetInt(b.fd(), unix.LOOP_CLR_FD, 0); err != nil && !errors.Is(err, unix.ENXIO) {
		return fmt.Errorf("%s: %w", b.path(), err)
	}
	b.close()
	return b.waitUnbound(ctx)
}

func (b *bound) waitUnbound(ctx context.Context) error {
	deadline := time.Now().Add(detachTimeout)
	for wait := time.Millisecond; ; wait *= 2 {
		again, err := openBound(b.number)
		if errors.Is(err, ErrNoDevice) || errors.Is(err, unix.ENOENT) {
			return nil
		}
		if errors.Is(err, unix.ENXIO) { // the kernel is just unbinding it, and opens it for nobody meanwhile
			if err := pauseUntil(ctx, deadline, wait); err != nil {
				return fmt.Errorf("%s is being unbound: %w", b.path(), err)
			}
			continue
		}
		if err != nil {
			return err
		}
		other := again.status.Device != b.status.Device || again.status.Inode != b.status.Inode || again.name() != b.name()
		again.close()
		if other {
			return nil // somebody has got the number already
		}
		if err := pauseUntil(ctx, deadline, wait); errors.Is(err, ErrInUse) {
			return fmt.Errorf("%w: a process has %s open; it goes when that closes it", ErrInUse, b.path())
		} else if err != nil {
			return err
		}
	}
}

// pauseUntil waits a little, and returns ErrInUse when the time is over.
func pauseUntil(ctx context.Context, deadline time.Time, wait time.Duration) error {
	if time.Now().After(deadline) {
		return ErrInUse
	}
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(wait):
		return nil
	}
}

// listed is a loop device that has a file, as the kernel lists it.
type listed struct {
	number int
	file   string // the path that the file has now, as far as this process can see it
}

// listBound lists the loop devices that have a file: those alone have a folder "loop". To open each would take ten
// times as long.
func listBound() ([]listed, error) {
	disks, err := os.ReadDir("/sys/block")
	if err != nil {
		return nil, err
	}
	var all []listed
	for _, disk := range disks {
		number, err := strconv.Atoi(strings.TrimPrefix(disk.Name(), "loop"))
		if err != nil {
			continue
		}
		file, err := os.ReadFile("/sys/block/" + disk.Name() + "/loop/backing_file")
		if err == nil {
			all = append(all, listed{number, strings.TrimSuffix(strings.TrimSpace(string(file)), " (deleted)")})
		}
	}
	return all, nil
}

// mayBe reports whether the device can be over the image. A process in another mount namespace sees another path, but
// the last two names, of the volume's folder and of the image in it, are always the same.
func (l listed) mayBe(image string) bool {
	return lastTwo(l.file) == lastTwo(image)
}

func lastTwo(path string) [2]string {
	return [2]string{filepath.Base(filepath.Dir(path)), filepath.Base(path)}
}

// find returns the device over the file, open.
func (d *Devices) find(image string, id fileID) (*bound, error) {
	if number, known := d.hint(image); known {
		if b, err := openBound(number); err == nil {
			if b.has(id) && strings.HasPrefix(b.name(), d.mark) {
				return b, nil
			}
			b.close()
		}
	}
	all, err := listBound()
	if err != nil {
		return nil, err
	}
	var foreign error
	for _, device := range all {
		if !device.mayBe(image) {
			continue
		}
		b, err := openBound(device.number)
		if err != nil {
			continue // it went away meanwhile
		}
		if b.has(id) && strings.HasPrefix(b.name(), d.mark) {
			d.remember(image, device.number)
			return b, nil
		}
		if b.status.Device == id.dev && b.status.Inode == id.ino {
			foreign = fmt.Errorf("%w: %s; detach it first (losetup --detach %s)", ErrForeign, b.path(), b.path())
		}
		b.close()
	}
	if foreign != nil {
		return nil, foreign
	}
	return nil, ErrNoDevice
}
