package share

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/containerd/containerd/api/types"
	"github.com/containerd/containerd/v2/core/mount"
)

// Rootfs mounts a container's root file system on the host as containerd describes it, at path (the bundle's rootfs
// folder), shares it, and returns where the guest finds it. With no mounts path must hold the files already.
func (s *Share) Rootfs(ctx context.Context, container, path string, mounts []*types.Mount) (guestPath string, err error) {
	if err := checkName(container); err != nil {
		return "", fmt.Errorf("container id %w", err)
	}
	if err := ctx.Err(); err != nil {
		return "", err
	}
	if len(mounts) > 0 {
		if err := s.mountAll(container, path, mounts); err != nil {
			return "", fmt.Errorf("mount the root file system of container %s: %w", container, err)
		}
	}
	dir := filepath.Join(s.tree.mounts(), container)
	if err := os.Mkdir(dir, 0o755); err != nil {
		return "", err
	}
	s.remember(container, place{path: dir, made: true})
	if err := s.attach(container, path, filepath.Join(dir, "rootfs"), false); err != nil {
		return "", fmt.Errorf("share the root file system of container %s: %w", container, err)
	}
	return filepath.Join(GuestDir, container, "rootfs"), nil
}

// mountAll does what containerd's own shim does with the mounts, by containerd's own code: overlay mounts with very
// many layers need its tricks.
func (s *Share) mountAll(container, path string, mounts []*types.Mount) error {
	if err := os.MkdirAll(path, 0o711); err != nil {
		return err
	}
	all := make([]mount.Mount, 0, len(mounts))
	for _, m := range mounts {
		all = append(all, mount.Mount{Type: m.Type, Source: m.Source, Target: m.Target, Options: m.Options})
	}
	s.remember(container, place{path: path})
	if err := mount.All(all, path); err != nil {
		return errors.Join(err, unmount(path))
	}
	return nil
}
