package sandbox

import (
	"context"
	"fmt"
	"os"
	"slices"

	"github.com/containerd/containerd/api/types"

	"github.com/katadirect/katadirect/internal/rollback"
	"github.com/katadirect/katadirect/pkg/agentproto"
	"github.com/katadirect/katadirect/pkg/runtime/volume"
)

// rootfs gives the container its root file system: plugged in, if it is one on a block device or in an image file, else
// shared. What the agent has to mount for it comes back too.
func (s *Sandbox) rootfs(ctx context.Context, r ContainerRequest, undo *rollback.Stack) (
	guestPath string, storages []*agentproto.Storage, err error,
) {
	if s.config.Hypervisor.DisableBlock || !isDisk(r.Rootfs) {
		guestPath, err = s.shareRootfs(ctx, r, undo)
		return guestPath, nil, err
	}
	undo.Push("stop sharing files", func(ctx context.Context) error { return s.unshare(ctx, r.ID) })
	if guestPath, err = s.share.MountPoint(r.ID); err != nil {
		return "", nil, fmt.Errorf("container %s: %w", r.ID, err)
	}
	undo.Push("take the root file system out", func(ctx context.Context) error { return s.detach(ctx, r.ID) })
	m := r.Rootfs[0]
	storage, err := s.volumes.AttachRootfs(ctx, r.ID, volume.Rootfs{
		Device: m.Source, FSType: m.Type, Options: m.Options, GuestPath: guestPath,
	})
	if err != nil {
		return "", nil, fmt.Errorf("container %s: %w", r.ID, err)
	}
	return guestPath, []*agentproto.Storage{storage}, nil
}

// isDisk reports whether the root file system is one mount of a block device, or of an image file by a loop device.
func isDisk(mounts []*types.Mount) bool {
	if len(mounts) != 1 {
		return false
	}
	m := mounts[0]
	if m.Type == "bind" || slices.Contains(m.Options, "bind") || slices.Contains(m.Options, "rbind") {
		return false
	}
	info, err := os.Stat(m.Source)
	switch {
	case err != nil:
		return false // "overlay", or whoever mounts it will say what is wrong
	case info.Mode().IsRegular():
		return slices.Contains(m.Options, "loop")
	}
	return info.Mode()&os.ModeDevice != 0 && info.Mode()&os.ModeCharDevice == 0
}
