package sandbox

import (
	"context"

	"github.com/katadirect/katadirect/pkg/directvolume"
)

// CopyVolume begins a copy of the direct volume on the host's device, as it is now.
func (s *Sandbox) CopyVolume(ctx context.Context, device, target string) (directvolume.CopyState, error) {
	return s.volumes.StartCopy(ctx, device, target)
}

// VolumeCopy says how far it is.
func (s *Sandbox) VolumeCopy(ctx context.Context, device string, id uint64) (directvolume.CopyState, error) {
	return s.volumes.Copy(ctx, device, id)
}

// CancelCopy ends it.
func (s *Sandbox) CancelCopy(ctx context.Context, device string, id uint64) (directvolume.CopyState, error) {
	return s.volumes.CancelCopy(ctx, device, id)
}
