package filesystem

import (
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// ioctl numbers of include/uapi/linux/fs.h.
const (
	fiFreeze = 0xc0045877
	fiThaw   = 0xc0045878
)

// ErrFrozen is returned for what cannot be done to a file system that stands
// still.
var ErrFrozen = errors.New("file system is frozen")

// ErrThawed is returned by Thaw when something else has thawed the file system
// before: it did not stand still all the while.
var ErrThawed = errors.New("something else in the guest has thawed the file system")

// Frozen is a file system that stands still.
type Frozen struct {
	// dir keeps it reachable: what is mounted at the path may change. It
	// also keeps it from being unmounted, so Thaw comes first.
	dir *os.File
	// Since is when writers began to wait; Thaw's end is when they go on.
	Since time.Time
}

// Freeze writes out what is not written yet of the file system mounted at
// target, which may take long, and makes it stand still: whoever writes waits.
// Nothing but Thaw ends that, not even this process's end. ErrFrozen if it
// stands still already.
func Freeze(target string) (*Frozen, error) {
	dir, err := os.OpenFile(target, os.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		return nil, fmt.Errorf("freeze: %w", err)
	}
	// The kernel writes out what there is while everybody waits, so most of it is written out before.
	if err := unix.Syncfs(int(dir.Fd())); err != nil {
		dir.Close()
		return nil, fmt.Errorf("freeze: write out the file system at %s: %w", target, err)
	}
	since := time.Now()
	if err := ioctl(dir, fiFreeze, nil); err != nil {
		dir.Close()
		switch {
		case errors.Is(err, unix.EBUSY):
			err = fmt.Errorf("%w by something else in the guest", ErrFrozen)
		case errors.Is(err, unix.EOPNOTSUPP):
			err = fmt.Errorf("%w: it cannot be frozen", ErrUnsupported)
		}
		return nil, fmt.Errorf("freeze the file system at %s: %w", target, err)
	}
	return &Frozen{dir: dir, Since: since}, nil
}

// Thaw lets the file system go on. It is called once.
func (f *Frozen) Thaw() error {
	defer f.dir.Close()
	err := ioctl(f.dir, fiThaw, nil)
	if errors.Is(err, unix.EINVAL) {
		err = ErrThawed
	}
	if err != nil {
		return fmt.Errorf("thaw the file system at %s: %w", f.dir.Name(), err)
	}
	return nil
}
