package volume

import (
	"context"
	"errors"
	"fmt"

	"github.com/katadirect/katadirect/pkg/directvolume"
	"github.com/katadirect/katadirect/pkg/runtime/vm"
)

// ErrLimits says that limits make no sense.
var ErrLimits = errors.New("invalid limits")

// Throttle makes limits, all of them, hold for the volume on the host's device, in use or not. They last until the disk
// is unplugged; the one that is plugged next has what its record says.
//
// ErrUnknown, ErrLimits, directvolume.ErrDevice, or what the machine said.
func (s *Set) Throttle(ctx context.Context, device string, limits directvolume.Limits) error {
	if err := limits.Validate(); err != nil {
		return fmt.Errorf("throttle %s: %w: %w", device, ErrLimits, err)
	}
	d, err := s.lookup(device)
	if err != nil {
		return err
	}
	if err := d.busy.Acquire(ctx, 1); err != nil {
		return err
	}
	defer d.busy.Release(1)
	if err := s.Disks.ThrottleDisk(ctx, d.id, vm.DiskLimits(limits)); err != nil {
		return fmt.Errorf("throttle %s: %w", device, err)
	}
	s.Log.Info("direct volume throttled", "device", device, "disk", d.id, "limits", limits.String())
	return nil
}
