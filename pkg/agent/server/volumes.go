package server

import (
	"context"
	"time"

	"github.com/katadirect/katadirect/pkg/agent/storage"
	"github.com/katadirect/katadirect/pkg/agentproto"
)

// volumes is the service katadirect.volumes.v1.Volumes.
type volumes struct{ mounts *storage.Mounts }

// Freeze makes a volume stand still for a while.
func (v volumes) Freeze(ctx context.Context, req *agentproto.FreezeRequest) (*agentproto.FreezeResponse, error) {
	limit := min(req.GetLimitMilliseconds(), uint64(2*storage.MaxFreeze/time.Millisecond)) // more is refused anyway
	f, err := v.mounts.Freeze(ctx, req.GetVolumeGuestPath(), time.Duration(limit)*time.Millisecond)
	if err != nil {
		return nil, err
	}
	return &agentproto.FreezeResponse{Id: f.ID, RemainingMilliseconds: uint64(f.Remaining.Milliseconds())}, nil
}

// Thaw lets a volume go on.
func (v volumes) Thaw(_ context.Context, req *agentproto.ThawRequest) (*agentproto.ThawResponse, error) {
	was, ended, err := v.mounts.Thaw(req.GetVolumeGuestPath(), req.GetId())
	if err != nil {
		return nil, err
	}
	answer := &agentproto.ThawResponse{
		WasFrozen: was, FrozenMicroseconds: uint64(v.mounts.StoodStill(req.GetVolumeGuestPath(), req.GetId()).Microseconds()),
	}
	if !was {
		answer.Ended = ended
	}
	return answer, nil
}

// List tells of the mounted volumes.
func (v volumes) List(ctx context.Context, _ *agentproto.ListRequest) (*agentproto.ListResponse, error) {
	mounted, err := v.mounts.Volumes(ctx)
	if err != nil {
		return nil, err
	}
	answer := &agentproto.ListResponse{}
	for _, m := range mounted {
		volume := &agentproto.MountedVolume{
			VolumeGuestPath: m.MountPoint, Device: m.Node, Fstype: m.FSType, ReadOnly: m.ReadOnly, DeviceBytes: m.DeviceBytes,
		}
		if m.Freezing != nil {
			volume.FrozenMilliseconds = uint64(max(1, m.Freezing.Since.Milliseconds()))
			volume.RemainingMilliseconds = uint64(m.Freezing.Remaining.Milliseconds())
		}
		answer.Volumes = append(answer.Volumes, volume)
	}
	return answer, nil
}
