package volume

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"

	"github.com/katadirect/katadirect/pkg/directvolume"
)

// ErrSubPath says that a mount's source lies inside the folder that stands for a direct volume. On the host that
// folder is empty: sharing a part of it would give the container a folder of the host's disk in the volume's stead.
var ErrSubPath = errors.New("a part (subPath) of a direct volume cannot be mounted; mount the whole volume")

// refuseInside returns an ErrSubPath if source lies in a volume's folder, or is a bind mount of something there, which
// is how kubelet prepares a subPath.
func (s *Set) refuseInside(ctx context.Context, source string) error {
	origins, err := originsOf(source)
	if err != nil {
		return err
	}
	for _, origin := range origins {
		// The origin itself first: with subPath "." kubelet binds the volume's whole folder to another place.
		for dir := origin; dir != "/" && dir != "."; dir = filepath.Dir(dir) {
			_, err := s.Records.Get(ctx, dir)
			if errors.Is(err, directvolume.ErrNotFound) {
				continue
			}
			return errors.Join(fmt.Errorf("%s lies in the direct volume %s: %w", source, dir, ErrSubPath), err)
		}
	}
	return nil
}

// originsOf returns the paths that source may be another name of: itself, where a symbolic link leads, and if something
// is mounted there, where on the host that something is too.
func originsOf(source string) ([]string, error) {
	at := filepath.Clean(source)
	origins := []string{at}
	if real, err := filepath.EvalSymlinks(source); err == nil && real != at {
		at = real
		origins = append(origins, at)
	}
	if !mounted(source) {
		return origins, nil
	}
	mounts, err := mountinfo.GetMounts(nil)
	if err != nil {
		return nil, fmt.Errorf("look for the origin of %s: %w", source, err)
	}
	for _, m := range mounts {
		if m.Mountpoint != at {
			continue
		}
		for _, other := range mounts {
			inside, below := cutDir(m.Root, other.Root)
			if below && other.Mountpoint != at && other.Major == m.Major && other.Minor == m.Minor {
				origins = append(origins, filepath.Join(other.Mountpoint, inside))
			}
		}
	}
	return origins, nil
}

// mounted reports whether source is a mount point, as far as the kernel can tell cheaply.
func mounted(source string) bool {
	var stat unix.Statx_t
	if err := unix.Statx(unix.AT_FDCWD, source, 0, 0, &stat); err != nil {
		return false // who mounts it will say why it cannot be
	}
	if stat.Attributes_mask&unix.STATX_ATTR_MOUNT_ROOT == 0 {
		return true // Linux before 5.8 does not tell: look
	}
	return stat.Attributes&unix.STATX_ATTR_MOUNT_ROOT != 0
}

// cutDir returns path relative to dir, if it is dir or below it.
func cutDir(path, dir string) (rest string, below bool) {
	if dir == "/" {
		return path, true
	}
	rest, below = strings.CutPrefix(path, dir)
	return rest, below && (rest == "" || rest[0] == '/')
}
