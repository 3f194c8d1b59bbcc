package sandbox

import (
	"errors"
	"log/slog"
	"path/filepath"
	"slices"
	"strings"

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

// dropShared unmounts what the kernel has mounted for a container that is gone, unless another is made from it too. Nobody
// else would: such a mount stays when the host's has gone, with every file of which the guest has read a page, and for each
// virtiofsd keeps a file open.
func (s *Sandbox) dropShared(m *member) {
	s.sharesMu.Lock() // no container begins to use one meanwhile: it would see another file system than those who had it before
	defer s.sharesMu.Unlock()
	gone := m.shared
	m.shared = nil
	if len(gone) == 0 {
		return
	}
	mounts, err := mountinfo.GetMounts(mountinfo.FSTypeFilter(shareType))
	if err != nil {
		slog.Warn("a removed container's mounts of the share are kept", "error", err)
		return
	}
	for _, point := range unneeded(mounts, gone, s.sharedByAll()) {
		if err := unmountShared(point); err != nil {
			slog.Warn("a removed container's mount of the share is kept", "mount", point, "error", err)
		}
	}
}

// unmountShared asks the host something first: its answer comes after those to all earlier requests, and Linux 6.1 must not
// have one under way when the file system goes (see container's pins).
func unmountShared(point string) error {
	var fs unix.Statfs_t
	if err := unix.Statfs(point, &fs); err != nil {
		return err
	}
	err := unix.Unmount(point, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
	if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOENT) { // it has just gone with the host's
		return nil
	}
	return err
}

// unneeded are the mount points of what was gone is made from and nothing in use, the last first: it may be below the others.
func unneeded(mounts []*mountinfo.Info, gone, inUse []string) (points []string) {
	for _, m := range slices.Backward(mounts) {
		point := m.Mountpoint
		of := slices.ContainsFunc(gone, func(path string) bool { return isBelow(point, path) })
		if of && !slices.ContainsFunc(inUse, func(path string) bool { return isBelow(path, point) || isBelow(point, path) }) {
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
