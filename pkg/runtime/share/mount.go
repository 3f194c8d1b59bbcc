package share

import (
	"errors"
	"fmt"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"
)

// ErrDevice is returned for a device node: in the guest its number would be that of another device, or of none.
var ErrDevice = errors.New("a device of the host cannot be shared as a file")

// clone is a bind mount that is attached nowhere yet. The kernel resolved its source once, so nobody can swap a
// symbolic link between looking at it and mounting it.
type clone struct {
	fd    int
	isDir bool
	id    folderID // if it is one
}

// newClone takes what source names, symbolic links followed, without what is mounted below it. It is private: an
// unmount of it never reaches the host's own mount of the same thing.
func newClone(source string, readOnly bool) (clone, error) {
	fd, err := unix.OpenTree(unix.AT_FDCWD, source, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
	if err != nil {
		return clone{}, &fs.PathError{Op: "open", Path: source, Err: err}
	}
	c := clone{fd: fd}
	attr := unix.MountAttr{Propagation: unix.MS_PRIVATE}
	if readOnly {
		attr.Attr_set = unix.MOUNT_ATTR_RDONLY
	}
	// Read-only is set here, before it is attached: a slave copies the flags of that moment and never looks again.
	if err := unix.MountSetattr(fd, "", unix.AT_EMPTY_PATH, &attr); err != nil {
		return clone{}, errors.Join(fmt.Errorf("set the attributes of a mount of %s: %w", source, err), c.close())
	}
	var stat unix.Stat_t
	if err := unix.Fstat(fd, &stat); err != nil {
		return clone{}, errors.Join(&fs.PathError{Op: "stat", Path: source, Err: err}, c.close())
	}
	var flags unix.Statfs_t
	if err := unix.Fstatfs(fd, &flags); err != nil {
		return clone{}, errors.Join(&fs.PathError{Op: "statfs", Path: source, Err: err}, c.close())
	}
	switch stat.Mode & unix.S_IFMT {
	case unix.S_IFBLK, unix.S_IFCHR:
		return clone{}, errors.Join(fmt.Errorf("%s: %w", source, ErrDevice), c.close())
	case unix.S_IFDIR:
		c.isDir = true
		c.id = folderID{stat.Dev, stat.Ino, flags.Flags}
	}
	return c, nil
}

func (c clone) close() error { return unix.Close(c.fd) }

// attach makes the mount point and mounts the clone on it; on error nothing of it is left. It uses the clone up.
func (c clone) attach(target string) (err error) {
	defer func() { err = errors.Join(err, c.close()) }()
	if err := makeMountPoint(target, c.isDir); err != nil {
		return err
	}
	err = unix.MoveMount(c.fd, "", unix.AT_FDCWD, target, unix.MOVE_MOUNT_F_EMPTY_PATH)
	if err != nil {
		return errors.Join(&fs.PathError{Op: "mount", Path: target, Err: err}, removeMountPoint(target))
	}
	return nil
}

func makeMountPoint(path string, dir bool) error {
	if dir {
		return os.Mkdir(path, 0o755)
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return err
	}
	return f.Close()
}

// removeMountPoint removes an empty folder or file. It never removes a tree: should an unmount have failed, the
// tree is somebody's data.
func removeMountPoint(path string) error {
	return ignoring(fs.ErrNotExist, os.Remove(path))
}

// unmount takes away every mount on path. One that is in use (the guest remembers files of it) is detached, so
// that nobody can reach it any more, and goes away with its last user. Not being mounted is success.
func unmount(path string) error {
	for {
		err := unix.Unmount(path, unix.UMOUNT_NOFOLLOW)
		if errors.Is(err, unix.EBUSY) {
			err = unix.Unmount(path, unix.UMOUNT_NOFOLLOW|unix.MNT_DETACH)
		}
		switch {
		case errors.Is(err, unix.EINVAL), errors.Is(err, unix.ENOENT):
			return nil
		case err != nil:
			return &fs.PathError{Op: "unmount", Path: path, Err: err}
		}
	}
}

func ignoring(ignored, err error) error {
	if errors.Is(err, ignored) {
		return nil
	}
	return err
}
