package storage

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"math"
	"os"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/katadirect/katadirect/pkg/agentproto"
)

// Bits that a group's access needs, as kubelet sets them on volumes that the
// host mounts.
const (
	groupFile = 0o660
	groupDir  = 0o110 | unix.S_ISGID // beside those for files
)

// applyGroup hands the volume mounted at path to a group. With
// OnRootMismatch nothing is done where the root folder is as it should be.
// Owners are left alone, and symbolic links are neither followed nor changed
// in mode.
func applyGroup(path string, group *agentproto.FSGroup, readOnly bool) error {
	if readOnly {
		slog.Info("the volume is read-only, and stays as it is", "mount_point", path, "group", group.GetGroupId())
		return nil
	}
	gid := group.GetGroupId()
	if gid > math.MaxInt32 {
		return fmt.Errorf("%w: group %d", ErrRequest, gid)
	}
	root, err := os.OpenRoot(path)
	if err != nil {
		return fmt.Errorf("hand the volume to group %d: %w", gid, err)
	}
	defer root.Close()
	if group.GetGroupChangePolicy() == agentproto.FSGroupChangePolicy_OnRootMismatch {
		matches, err := rootMatches(root, gid)
		if err != nil || matches {
			return err
		}
	}
	return changeGroup(root, int(gid))
}

func rootMatches(root *os.Root, gid uint32) (bool, error) {
	info, err := root.Stat(".")
	if err != nil {
		return false, err
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return false, errors.New("no owner of the volume's root folder")
	}
	const want = groupFile | groupDir
	return st.Gid == gid && st.Mode&want == want, nil
}

// changeGroup changes everything below root, the root folder last: as long as
// it is not changed the work is not done, and OnRootMismatch does it again
// after a crash. Names are resolved below root, so that a link planted among
// them leads nowhere else.
func changeGroup(root *os.Root, gid int) error {
	err := fs.WalkDir(root.FS(), ".", func(name string, entry fs.DirEntry, err error) error {
		switch {
		case errors.Is(err, fs.ErrNotExist):
			return nil // deleted meanwhile
		case err != nil:
			return err
		case name == ".":
			return nil
		}
		return changeOne(root, name, entry, gid)
	})
	if err != nil {
		return fmt.Errorf("hand the volume to group %d: %w", gid, err)
	}
	info, err := root.Stat(".")
	if err != nil {
		return err
	}
	return changeOne(root, ".", fs.FileInfoToDirEntry(info), gid)
}

func changeOne(root *os.Root, name string, entry fs.DirEntry, gid int) error {
	if err := root.Lchown(name, -1, gid); err != nil {
		return ignoreMissing(err)
	}
	if entry.Type()&fs.ModeSymlink != 0 {
		return nil
	}
	info, err := root.Lstat(name)
	if err != nil {
		return ignoreMissing(err)
	}
	mode := info.Mode() | groupFile
	if info.IsDir() {
		mode |= groupDir&0o777 | fs.ModeSetgid
	}
	if mode == info.Mode() {
		return nil
	}
	return ignoreMissing(root.Chmod(name, mode))
}

func ignoreMissing(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}
