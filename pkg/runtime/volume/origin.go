package volume

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"
)

// origin is a path that a mount's source may be another name of.
type origin struct {
	path    string
	deleted bool // what is mounted at the source has lost this name
}

// originsOf returns the paths that source may be another name of: itself, where a symbolic link leads, and if something
// is mounted there, where on the host that something is too.
func originsOf(source string) ([]origin, error) {
	at := filepath.Clean(source)
	origins := []origin{{path: at}}
	if real, err := filepath.EvalSymlinks(source); err == nil && real != at {
		at = real
		origins = append(origins, origin{path: at})
	}
	if !isMountPoint(source) {
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
		root, deleted := strings.CutSuffix(m.Root, "//deleted")
		for _, other := range mounts {
			inside, below := cutDir(root, other.Root)
			if below && other.Mountpoint != at && other.Major == m.Major && other.Minor == m.Minor {
				origins = append(origins, origin{filepath.Join(other.Mountpoint, inside), deleted})
			}
		}
	}
	return origins, nil
}

// isMountPoint reports whether source is a mount point, as far as the kernel can tell cheaply.
func isMountPoint(source string) bool {
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

// Below finds the folder directly in one whose path ends in parent ("volumes/kubernetes.io~empty-dir") that source is,
// lies in, or is a bind mount of something in, and which part of it that is. "" is none.
//
// Only a folder of the pod that source is of counts, the one that has parent in it: who writes to a volume can make
// folders of such names in there, and a subPath then leads to them. Nothing may be trusted that lies in those.
func Below(source, parent string) (dir, inside string, err error) {
	origins, err := originsOf(source)
	if err != nil {
		return "", "", err
	}
	names := []string{filepath.Clean(source)}
	if real, err := filepath.EvalSymlinks(source); err == nil {
		names = append(names, real)
	}
	for _, o := range origins {
		if o.deleted {
			continue
		}
		for dir, inside := o.path, ""; dir != "/" && dir != "."; dir, inside = filepath.Dir(dir), filepath.Join(filepath.Base(dir), inside) {
			pod, found := strings.CutSuffix(filepath.Dir(dir), "/"+parent)
			if found && slices.ContainsFunc(names, func(name string) bool { return isOfPod(name, pod) }) {
				return dir, inside, checkInside(inside)
			}
		}
	}
	return "", "", nil
}

// isOfPod says whether source is what kubelet gives a container of the pod whose folder this is: a volume, or the place
// where it has bound a part of one.
func isOfPod(source, pod string) bool {
	_, volume := cutDir(source, filepath.Join(pod, "volumes"))
	_, part := cutDir(source, filepath.Join(pod, "volume-subpaths"))
	return volume || part
}
