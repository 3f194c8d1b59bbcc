package volume

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"github.com/katadirect/katadirect/pkg/directvolume"
)

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
