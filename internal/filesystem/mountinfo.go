package filesystem

import (
	"errors"
	"fmt"
	"path/filepath"
	"slices"

	"github.com/moby/sys/mountinfo"

	"github.com/katadirect/katadirect/internal/condition"
)

// ErrNotMounted is returned for a path at which nothing is mounted.
var ErrNotMounted = errors.New("nothing is mounted there")

// Mounted is a mount as the kernel lists it.
type Mounted struct {
	Target, Source, FSType string
	// ReadOnly is the file system's own state, which an error can change
	// while the mount stays writable in name.
	ReadOnly     bool
	Major, Minor int
}

// MountAt returns the mount at exactly that path, the topmost if several are
// stacked there. ErrNotMounted if there is none.
func MountAt(path string) (Mounted, error) {
	path = filepath.Clean(path)
	mounts, err := mountinfo.GetMounts(mountinfo.SingleEntryFilter(path))
	if err != nil {
		return Mounted{}, fmt.Errorf("read mount table: %w", err)
	}
	if len(mounts) == 0 {
		return Mounted{}, fmt.Errorf("%s: %w", path, ErrNotMounted)
	}
	return mounted(mounts[len(mounts)-1]), nil
}

func mounted(m *mountinfo.Info) Mounted {
	return Mounted{
		Target: m.Mountpoint, Source: m.Source, FSType: m.FSType, Major: m.Major, Minor: m.Minor,
		ReadOnly: condition.WentReadOnly(m.VFSOptions),
	}
}

// xfsTwinMounted says whether another mounted xfs has the same UUID as the one
// on that device. What cannot be read has no twin.
func xfsTwinMounted(node string) bool {
	uuid, err := xfsUUID(node)
	if err != nil {
		return false
	}
	mounts, err := mountinfo.GetMounts(mountinfo.FSTypeFilter("xfs"))
	if err != nil {
		return false
	}
	return slices.ContainsFunc(mounts, func(m *mountinfo.Info) bool {
		other, err := xfsUUID(m.Source)
		return err == nil && other == uuid
	})
}
