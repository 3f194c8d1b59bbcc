package loop

import (
	"context"
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// FindHeld is Find for who takes away what there is. An image that has vanished can be compared with no device; the one
// that is marked as its own is it then, or a pod that has it could never end. Nobody may be given such a device.
func (d *Devices) FindHeld(_ context.Context, image string) (Device, error) {
	found, err := d.findHeld(image)
	if err != nil {
		return Device{}, fmt.Errorf("find the loop device of %s: %w", image, err)
	}
	defer found.close()
	return found.device(), nil
}

func (d *Devices) findHeld(image string) (*bound, error) {
	found, err := d.findImage(image)
	if errors.Is(err, unix.ENOENT) {
		return d.findMarked(image)
	}
	return found, err
}

// findMarked goes by the mark alone: the pool, and the folder that the image was in.
func (d *Devices) findMarked(image string) (*bound, error) {
	all, err := listBound()
	if err != nil {
		return nil, err
	}
	for _, device := range all {
		b, err := openBound(device.number)
		if err != nil {
			continue // it went away meanwhile, or never was one
		}
		if b.name() == d.nameOf(image) {
			return b, nil
		}
		b.close()
	}
	return nil, ErrNoDevice
}
