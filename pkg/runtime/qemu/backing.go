package qemu

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/katadirect/katadirect/pkg/runtime/vm"
)

// backing is the host's side of a disk. QEMU gets an open descriptor, never the path: what was looked at is what is
// plugged, whatever the path means a moment later.
type backing struct {
	path  *os.File // opened with O_PATH: knows the file's size, but is no open file as far as the device is concerned
	data  *os.File // what QEMU gets; closed once it has it
	block bool
}

// openBacking opens a regular file or a block device for reading, or for reading and writing. Anything else, like a
// pipe or a folder, is refused without being opened. Symbolic links are followed: /dev/mapper is full of them.
//
// A block device is opened with O_EXCL, which the kernel refuses while the device is mounted or used by
// another writer (ErrInUse), and which keeps the host from mounting it as long as the machine has it. Regular files
// rely on QEMU's own locks, which hold between machines on one host.
func openBacking(path string, readOnly bool) (_ *backing, err error) {
	if !filepath.IsAbs(path) {
		return nil, fmt.Errorf("path %q is not absolute", path)
	}
	fd, err := unix.Open(path, unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: path, Err: err}
	}
	b := &backing{path: os.NewFile(uintptr(fd), path)}
	defer func() {
		if err != nil {
			err = errors.Join(err, b.path.Close())
		}
	}()
	info, err := b.path.Stat()
	if err != nil {
		return nil, err
	}
	b.block = info.Mode()&os.ModeDevice != 0 && info.Mode()&os.ModeCharDevice == 0
	if !b.block && !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%s is neither a block device nor a regular file", path)
	}
	flags := os.O_RDONLY
	if !readOnly {
		flags = os.O_RDWR
	}
	if b.block {
		flags |= unix.O_EXCL // also for reading: a host that mounted it would write under the guest
	}
	b.data, err = os.OpenFile(fmt.Sprintf("/proc/self/fd/%d", fd), flags, 0)
	if errors.Is(err, unix.EBUSY) {
		return nil, fmt.Errorf("%w: the host has %s mounted, or someone else has it open for writing", vm.ErrInUse, path)
	}
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", path, errors.Unwrap(err))
	}
	return b, nil
}

// fileSize is the size of a regular file, and 0 for a block device, whose size QEMU knows.
func (b *backing) fileSize() (int64, error) {
	if b.block {
		return 0, nil
	}
	info, err := b.path.Stat()
	if err != nil {
		return 0, err
	}
	return info.Size(), nil
}

// handedOver closes what QEMU has its own copy of.
func (b *backing) handedOver() {
	if b.data != nil {
		_ = b.data.Close() // nothing was written through it
		b.data = nil
	}
}

func (b *backing) close() {
	b.handedOver()
	_ = b.path.Close() // O_PATH: nothing to lose
}

// driver is QEMU's word for the kind of backing.
func (b *backing) driver() string {
	if b.block {
		return "host_device"
	}
	return "file"
}
