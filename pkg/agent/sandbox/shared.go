package sandbox

import (
	"path/filepath"
	"slices"
	"strings"

	"github.com/moby/sys/mountinfo"
	specs "github.com/opencontainers/runtime-spec/specs-go"

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

// unneeded are the mount points of what was gone is made from and nothing in use, the last first: it may be below the others.
// One with something else below it, such as a volume, is left for a time when that has gone, and a storage's own to the storage.
func unneeded(mounts []*mountinfo.Info, gone, inUse, storages []string) (points []*mountinfo.Info) {
	for _, m := range slices.Backward(mounts) {
		point := m.Mountpoint
		below := func(path string) bool { return isBelow(path, point) }
		above := func(path string) bool { return isBelow(point, path) }
		other := func(another *mountinfo.Info) bool { return another.FSType != shareType && below(another.Mountpoint) }
		if slices.ContainsFunc(gone, above) && !slices.ContainsFunc(inUse, below) && !slices.ContainsFunc(inUse, above) &&
			!slices.ContainsFunc(storages, below) && !slices.ContainsFunc(mounts, other) {
			points = append(points, m)
		}
	}
	return points
}

func isBelow(path, dir string) bool { return path == dir || strings.HasPrefix(path, dir+"/") }
