package sandbox

import (
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/moby/sys/mountinfo"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/katadirect/katadirect/pkg/agent/guest"
	"github.com/katadirect/katadirect/pkg/agentproto"
)

// shareType is the file system of the share, and of what the guest's kernel mounts by itself where the host has a mount
// below it.
const shareType = "virtiofs"

// sharedPaths are the places on the share that a container is made from: its root file system, and the sources of its
// mounts and storages.
func sharedPaths(spec *specs.Spec, storages []*agentproto.Storage) (paths []string) {
	add := func(path string) {
		if path = filepath.Clean(path); path != guest.SharedDir && isBelow(path, guest.SharedDir) && !slices.Contains(paths, path) {
			paths = append(paths, path)
		}
	}
	if spec.Root != nil {
		add(spec.Root.Path)
	}
	for _, m := range spec.Mounts {
		add(m.Source)
	}
	for _, st := range storages {
		add(st.GetSource())
	}
	return paths
}

// takeShared notes what a container is made from before anything of it is looked at.
func (s *Sandbox) takeShared(m *member, paths []string) {
	s.sharesMu.Lock()
	defer s.sharesMu.Unlock()
	m.shared = paths
}

// shareGrace is how long a container has been gone before its part of the share is unmounted. Linux 6.1 must have no request
// to the host under way when a file system goes (see container's pins), and a daemon with several threads answers in any order.
const shareGrace = time.Second

// dropShared unmounts, in a while, what the kernel has mounted for a container that is gone, unless another is made from it
// too. Nobody else would: such a mount stays when the host's has gone, with every name that the guest has looked at, and for
// each virtiofsd keeps a file open.
func (s *Sandbox) dropShared(m *member) {
	s.sharesMu.Lock()
	gone := m.shared
	m.shared = nil
	s.sharesMu.Unlock()
	if len(gone) > 0 {
		time.AfterFunc(shareGrace, func() {
			if err := s.unmountShared(gone); err != nil {
				slog.Warn("a removed container's part of the share is kept", "error", err)
			}
		})
	}
}

func (s *Sandbox) unmountShared(gone []string) error {
	points, err := s.unneeded(gone)
	if err != nil {
		return err
	}
	// The host is asked before anybody has to wait for the lock: from a daemon with one thread the answer comes after those
	// to all earlier requests. What it says does not matter.
	for _, point := range points {
		var fs unix.Statfs_t
		_ = unix.Statfs(point, &fs)
	}
	s.sharesMu.Lock() // a container that begins to use one now would see another file system than those who had it before
	defer s.sharesMu.Unlock()
	if points, err = s.unneeded(gone); err != nil {
		return err
	}
	var errs []error
	for _, point := range points {
		err := unix.Unmount(point, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
		if err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) { // it has just gone with the host's
			errs = append(errs, fmt.Errorf("unmount %s: %w", point, err))
		}
	}
	return errors.Join(errs...)
}

func (s *Sandbox) unneeded(gone []string) ([]string, error) {
	mounts, err := mountinfo.GetMounts(mountinfo.PrefixFilter(guest.SharedDir))
	if err != nil {
		return nil, err
	}
	return unneeded(mounts, gone, s.sharedByAll(), s.Mounts.MountPoints()), nil
}

// unneeded are the mount points of what was gone is made from and nothing in use, the last first: it may be below the others.
// One with something else below it, such as a volume, goes with that, and a storage's own with the storage.
func unneeded(mounts []*mountinfo.Info, gone, inUse, storages []string) (points []string) {
	for _, m := range slices.Backward(mounts) {
		point := m.Mountpoint
		below := func(path string) bool { return isBelow(path, point) }
		above := func(path string) bool { return isBelow(point, path) }
		other := func(m *mountinfo.Info) bool { return m.FSType != shareType && below(m.Mountpoint) }
		if slices.ContainsFunc(gone, above) && !slices.ContainsFunc(inUse, below) && !slices.ContainsFunc(inUse, above) &&
			!slices.ContainsFunc(storages, below) && !slices.ContainsFunc(mounts, other) {
			points = append(points, point)
		}
	}
	return points
}

// sharedByAll are the paths of every container that there is.
func (s *Sandbox) sharedByAll() (all []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, m := range s.containers {
		all = append(all, m.shared...)
	}
	return all
}

func isBelow(path, dir string) bool { return path == dir || strings.HasPrefix(path, dir+"/") }
