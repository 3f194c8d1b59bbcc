// Package fsgroup hands the files of a volume to a group, as kubelet does for a pod's fsGroup: the guest's agent uses it
// for volumes that the guest mounts, the CSI driver for those that the host mounts.
//
// Programs may be at work on the volume meanwhile, and they may be hostile: a name is opened once without following
// links, and only what was opened is changed.
package fsgroup

import (
	"context"
	"errors"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// Bits that a group's access needs, as kubelet sets them.
const (
	groupFile = 0o660
	groupDir  = 0o110 | unix.S_ISGID // beside those for files
)

// ErrTooDeep says that there are folders in the volume that no program can name.
var ErrTooDeep = errors.New("the folders lie too deep in each other")

// Matches reports whether a volume's root folder is the group's. It is the last that Apply changes, so then everything
// below it was, too.
func Matches(root *os.File, gid uint32) (bool, error) {
	var st unix.Stat_t
	if err := unix.Fstat(int(root.Fd()), &st); err != nil {
		return false, err
	}
	const want = groupFile | groupDir
	return st.Gid == gid && st.Mode&want == want, nil
}

// Apply hands everything in the folder, and then the folder, to the group. Owners are left alone, and symbolic links are
// neither followed nor changed in mode. What is as it should be is only looked at.
func Apply(ctx context.Context, root *os.File, gid uint32) error {
	c := change{gid}
	if err := walk(ctx, root, c.one); err != nil {
		return err
	}
	return c.one(int(root.Fd()), ".")
}

type change struct{ gid uint32 }

// one changes one file or folder, if there is something to change: a walk that finds everything done is much faster
// than one that does it.
func (c change) one(at int, name string) error {
	var st unix.Stat_t
	if err := unix.Fstatat(at, name, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return &os.PathError{Op: "stat", Path: name, Err: err}
	}
	if st.Gid == c.gid && (isLink(st) || wantedMode(st) == st.Mode&0o7777) {
		return nil
	}
	fd, err := unix.Openat(at, name, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return &os.PathError{Op: "open", Path: name, Err: err}
	}
	defer unix.Close(fd)
	if err := unix.Fstat(fd, &st); err != nil { // it may be another one by now
		return &os.PathError{Op: "stat", Path: name, Err: err}
	}
	return c.opened(fd, name, st)
}

func (c change) opened(fd int, name string, st unix.Stat_t) error {
	changed := st.Gid != c.gid
	if changed {
		if err := unix.Fchownat(fd, "", -1, int(c.gid), unix.AT_EMPTY_PATH); err != nil {
			return &os.PathError{Op: "change the group of", Path: name, Err: err}
		}
	}
	if isLink(st) {
		return nil
	}
	mode := wantedMode(st)
	// A change of group takes the set-user-id bits of a file with it.
	if lost := changed && st.Mode&(unix.S_ISUID|unix.S_ISGID) != 0; mode == st.Mode&0o7777 && !lost {
		return nil
	}
	// The kernel's own link to what was opened: chmod by descriptor wants one that is open for reading, which not every
	// file allows without consequences.
	if err := unix.Chmod("/proc/self/fd/"+strconv.Itoa(fd), mode); err != nil {
		return &os.PathError{Op: "change the mode of", Path: name, Err: err}
	}
	return nil
}

func isLink(st unix.Stat_t) bool { return st.Mode&unix.S_IFMT == unix.S_IFLNK }

func wantedMode(st unix.Stat_t) uint32 {
	mode := st.Mode&0o7777 | groupFile
	if st.Mode&unix.S_IFMT == unix.S_IFDIR {
		mode |= groupDir
	}
	return mode
}
