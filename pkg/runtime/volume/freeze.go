package volume

import (
	"context"
	"errors"
	"fmt"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/katadirect/katadirect/pkg/agentproto"
	"github.com/katadirect/katadirect/pkg/directvolume"
	"github.com/katadirect/katadirect/pkg/runtime/agentclient"
)

// ErrLimit says that a volume was to be frozen for longer than one may be.
var ErrLimit = fmt.Errorf("a volume may be frozen for up to %s", directvolume.MaxFreeze)

// Freeze makes the volume on the host's device stand still for at most limit, 0 for the default, with everything
// written out. The guest ends it by itself, whatever becomes of this process. Freezing a frozen volume again extends
// the time.
//
// ErrUnknown, ErrNotMounted, ErrReadOnly, ErrCannotFreeze, ErrLimit, directvolume.ErrDevice, or what the agent said.
func (s *Set) Freeze(ctx context.Context, device string, limit time.Duration) (directvolume.Freeze, error) {
	if limit == 0 {
		limit = directvolume.DefaultFreeze
	}
	if limit < 0 || limit > directvolume.MaxFreeze {
		return directvolume.Freeze{}, fmt.Errorf("freeze %s for %s: %w", device, limit, ErrLimit)
	}
	d, err := s.lookup(device)
	if err != nil {
		return directvolume.Freeze{}, err
	}
	if err := d.busy.Acquire(ctx, 1); err != nil { // it grows, or goes
		return directvolume.Freeze{}, err
	}
	defer d.busy.Release(1)
	r, err := s.freeze(ctx, d, limit)
	if err != nil {
		return directvolume.Freeze{}, fmt.Errorf("freeze %s: %w", device, err)
	}
	s.Log.Info("direct volume frozen", "device", device, "disk", d.id, "freeze", r.GetId(), "limit", limit)
	return directvolume.Freeze{ID: r.GetId(), RemainingMilliseconds: r.GetRemainingMilliseconds()}, nil
}

func (s *Set) freeze(ctx context.Context, d *disk, limit time.Duration) (*agentproto.FreezeResponse, error) {
	switch {
	case !s.Features.Freeze:
		return nil, ErrCannotFreeze
	case d.kind == raw:
		return nil, fmt.Errorf("%w: as a raw device, whose content only the container can hold still", ErrOtherUse)
	case d.readOnly:
		return nil, fmt.Errorf("%w: it does not change", ErrReadOnly)
	case !s.inUse(d):
		return nil, ErrNotMounted
	}
	r, err := s.Agent.Freeze(ctx, &agentproto.FreezeRequest{
		VolumeGuestPath: d.guestPath, LimitMilliseconds: uint64(limit.Milliseconds())})
	if agentclient.IsCode(err, codes.Unimplemented) {
		return nil, errors.Join(ErrCannotFreeze, err)
	}
	return r, err
}

// Thaw ends a freeze, or with id 0 whichever there is, and says whether the volume stood still until now. It waits for
// nothing but the agent: what else is done to the disk may be waiting for the thaw.
func (s *Set) Thaw(ctx context.Context, device string, id uint64) (directvolume.Thaw, error) {
	d, err := s.lookup(device)
	if err != nil {
		return directvolume.Thaw{}, err
	}
	if !s.Features.Freeze {
		return directvolume.Thaw{}, fmt.Errorf("thaw %s: %w", device, ErrCannotFreeze)
	}
	r, err := s.Agent.Thaw(ctx, &agentproto.ThawRequest{VolumeGuestPath: d.guestPath, Id: id})
	if agentclient.IsCode(err, codes.NotFound) {
		return directvolume.Thaw{Ended: "the volume is not mounted any more"}, nil
	}
	if err != nil {
		return directvolume.Thaw{}, fmt.Errorf("thaw %s: %w", device, err)
	}
	s.Log.Info("direct volume thawed", "device", device, "disk", d.id, "freeze", id, "wasFrozen", r.GetWasFrozen())
	return directvolume.Thaw{
		WasFrozen: r.GetWasFrozen(), Ended: readable(r.GetEnded(), maxMessageBytes), FrozenMicroseconds: r.GetFrozenMicroseconds(),
	}, nil
}
