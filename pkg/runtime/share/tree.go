package share

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"
)

// tree is the folder of one sandbox.
type tree struct{ base string }

const watchable = "watchable"

func (t tree) mounts() string { return filepath.Join(t.base, "mounts") }
func (t tree) shared() string { return filepath.Join(t.base, "shared") }

// prepare makes the folders and their mounts. virtiofsd looks at the tree through a mount namespace of its own,
// which sees a later mount only if it propagates there: mounts is made a shared mount of itself first, and shared a
// slave of it, so that what the shim mounts appears and what virtiofsd does stays there.
func (t tree) prepare() error {
	if err := os.MkdirAll(filepath.Dir(t.base), 0o700); err != nil {
		return err
	}
	if err := os.Mkdir(t.base, 0o700); err != nil {
		return err
	}
	// The third is where an agent mounts its copies of folders that it watches, as in Kata; the guest cannot make it.
	for _, dir := range []string{t.mounts(), t.shared(), filepath.Join(t.mounts(), watchable)} {
		if err := os.Mkdir(dir, 0o755); err != nil {
			return err
		}
	}
	for _, m := range []struct {
		source, target string
		flags          uintptr
	}{
		{t.mounts(), t.mounts(), unix.MS_BIND},
		{"", t.mounts(), unix.MS_PRIVATE},
		{"", t.mounts(), unix.MS_SHARED},
		{t.mounts(), t.shared(), unix.MS_BIND},
		{"", t.shared(), unix.MS_SLAVE},
		{"", t.shared(), unix.MS_REMOUNT | unix.MS_BIND | unix.MS_RDONLY},
	} {
		if err := unix.Mount(m.source, m.target, "", m.flags, ""); err != nil {
			return fmt.Errorf("mount the shared folder %s: %w", m.target, err)
		}
	}
	return nil
}

// remove takes the whole tree away, whatever is mounted in it and whoever mounted it. It serves a sandbox that ends
// and one whose shim has died, so it asks the kernel what there is.
func (t tree) remove() error {
	if _, err := os.Lstat(t.base); errors.Is(err, os.ErrNotExist) {
		return nil
	}
	points, err := t.mountPoints()
	if err != nil {
		return err
	}
	var failures []error
	for _, p := range points {
		failures = append(failures, unmount(p))
	}
	if err := errors.Join(failures...); err != nil {
		return err
	}
	// RemoveAll would go through a mount that came meanwhile, and delete what it shows.
	if points, err = t.mountPoints(); err != nil || len(points) > 0 {
		return errors.Join(err, fmt.Errorf("%s is still mounted: %s", t.base, strings.Join(points, ", ")))
	}
	return os.RemoveAll(t.base)
}

// mountPoints lists what is mounted below base, the deepest first.
func (t tree) mountPoints() ([]string, error) {
	real, err := filepath.EvalSymlinks(t.base)
	if err != nil {
		return nil, ignoring(os.ErrNotExist, err)
	}
	infos, err := mountinfo.GetMounts(mountinfo.PrefixFilter(real))
	if err != nil {
		return nil, fmt.Errorf("read the mounts below %s: %w", t.base, err)
	}
	points := make([]string, 0, len(infos))
	for _, info := range infos {
		points = append(points, info.Mountpoint)
	}
	slices.SortFunc(points, func(a, b string) int { return len(b) - len(a) })
	return slices.Compact(points), nil
}
