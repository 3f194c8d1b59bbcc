package csi

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// targetMode lets the host's root look into the empty folder, and nobody else.
const targetMode = 0o750

// checkPath refuses a staging or target path that is not a plain absolute path. what names the field.
func checkPath(what, path string) error {
	switch {
	case path == "":
		return failf(ErrInvalidArgument, "the %s is missing", what)
	case !filepath.IsAbs(path):
		return failf(ErrInvalidArgument, "the %s %q is not absolute", what, path)
	case len(path) >= unix.PathMax:
		return failf(ErrInvalidArgument, "the %s is %d bytes long, more than a path can be", what, len(path))
	case strings.ContainsRune(path, 0):
		return failf(ErrInvalidArgument, "the %s has a NUL in it", what)
	case slices.Contains(strings.Split(path, "/"), ".."):
		return failf(ErrInvalidArgument, "the %s %q has \"..\" in it", what, path)
	case filepath.Clean(path) == "/":
		return failf(ErrInvalidArgument, "the %s cannot be \"/\"", what)
	}
	return nil
}

// makeTarget makes the empty folder that kubelet expects at the target path, and reports whether it did. A folder
// that is there already will do, if it is one, has nothing in it and nothing mounted on it: the pod would see that
// instead of its volume.
func makeTarget(path string) (made bool, err error) {
	err = os.Mkdir(path, targetMode)
	if err == nil {
		return true, nil
	}
	if !errors.Is(err, fs.ErrExist) {
		return false, fmt.Errorf("make the target path: %w", err)
	}
	return false, checkTarget(path)
}

func checkTarget(path string) error {
	var stat unix.Statx_t
	err := unix.Statx(unix.AT_FDCWD, path, unix.AT_SYMLINK_NOFOLLOW, unix.STATX_TYPE, &stat)
	if err != nil {
		return fmt.Errorf("look at the target path %s: %w", path, err)
	}
	if stat.Mode&unix.S_IFMT != unix.S_IFDIR {
		return failf(ErrState, "the target path %s is not a folder", path)
	}
	if stat.Attributes&unix.STATX_ATTR_MOUNT_ROOT != 0 {
		return failf(ErrState, "something is mounted on the target path %s; unmount it first", path)
	}
	dir, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("look into the target path: %w", err)
	}
	defer dir.Close()
	names, err := dir.Readdirnames(1)
	if len(names) > 0 {
		return failf(ErrState, "the target path %s is not empty: it holds %q", path, names[0])
	}
	if err != nil && !errors.Is(err, io.EOF) {
		return fmt.Errorf("look into the target path: %w", err)
	}
	return nil
}

// removeTarget removes the folder at the target path, and folders in it that hold nothing: kubelet makes them for a
// subPath before the runtime refuses that, and the pod could never be deleted. It takes away nothing else: what is
// mounted there, or was written there by a pod without a machine, is somebody's data.
func removeTarget(path string) error {
	err := unix.Rmdir(path)
	if errors.Is(err, unix.ENOTEMPTY) && removeEmptyFolders(path) == nil {
		err = unix.Rmdir(path)
	}
	switch {
	case err == nil, errors.Is(err, unix.ENOENT):
		return nil
	case errors.Is(err, unix.EBUSY):
		return failf(ErrState, "something is mounted on the target path %s; unmount it first", path)
	case errors.Is(err, unix.ENOTEMPTY), errors.Is(err, unix.EEXIST):
		return failf(ErrState, "the target path %s is not empty. A container without a virtual machine may have written "+
			"there; this driver does not delete it. Save what is needed and empty the folder", path)
	case errors.Is(err, unix.ENOTDIR):
		return failf(ErrState, "the target path %s is not a folder; this driver has not made it and leaves it", path)
	}
	return fmt.Errorf("remove the target path: %w", &fs.PathError{Op: "rmdir", Path: path, Err: err})
}

var errNotEmpty = errors.New("it holds more than empty folders")

// maxEmptyFolders is far more than the subPaths of a pod make.
const maxEmptyFolders = 1000

// removeEmptyFolders empties path if there are only folders in it, however deep, and no mounts. Names are resolved
// below path, and nothing but rmdir is used.
func removeEmptyFolders(path string) error {
	root, err := os.OpenRoot(path)
	if err != nil {
		return err
	}
	defer root.Close()
	var folders []string
	err = fs.WalkDir(root.FS(), ".", func(name string, entry fs.DirEntry, err error) error {
		if err != nil || name == "." {
			return err
		}
		if folders = append(folders, name); len(folders) > maxEmptyFolders || !entry.IsDir() {
			return errNotEmpty
		}
		return checkNoMount(root, name)
	})
	if err != nil {
		return err
	}
	for _, name := range slices.Backward(folders) { // a folder comes before what is in it
		parent, err := root.Open(filepath.Dir(name))
		if err != nil {
			return err
		}
		err = unix.Unlinkat(int(parent.Fd()), filepath.Base(name), unix.AT_REMOVEDIR)
		if err := errors.Join(err, parent.Close()); err != nil {
			return err
		}
	}
	return nil
}

func checkNoMount(root *os.Root, name string) error {
	dir, err := root.Open(name)
	if err != nil {
		return err
	}
	defer dir.Close()
	var stat unix.Statx_t
	if err := unix.Statx(int(dir.Fd()), "", unix.AT_EMPTY_PATH, unix.STATX_TYPE, &stat); err != nil {
		return err
	}
	if stat.Attributes&unix.STATX_ATTR_MOUNT_ROOT != 0 {
		return errNotEmpty
	}
	return nil
}
