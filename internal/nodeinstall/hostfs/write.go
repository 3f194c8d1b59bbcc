package hostfs

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"strings"
	"time"

	"github.com/google/uuid"
	"golang.org/x/sys/unix"
)

// MkdirAll makes a folder and those above it, durably.
func (r *Root) MkdirAll(hostPath string, mode os.FileMode) error {
	clean := path.Clean(hostPath)
	if clean == "/" || r.isDir(clean) {
		return nil
	}
	if err := r.MkdirAll(path.Dir(clean), mode); err != nil {
		return err
	}
	dir, name, err := r.parent(clean)
	if err != nil {
		return err
	}
	defer dir.Close()
	r.step("make folder", clean)
	if err := unix.Mkdirat(int(dir.Fd()), name, uint32(mode.Perm())); err != nil && !errors.Is(err, unix.EEXIST) {
		return &fs.PathError{Op: "mkdir", Path: clean, Err: err}
	}
	defer r.step("made folder", clean)
	return r.sync(path.Dir(clean))
}

func (r *Root) isDir(hostPath string) bool {
	info, err := r.Stat(hostPath)
	return err == nil && info.IsDir()
}

// WriteFile replaces a file, or makes it, and clears away what a killed one has left beside it. A link at the end of the path is replaced, not followed: see Follow. The owner
// and the security label of a file that was there stay.
func (r *Root) WriteFile(hostPath string, data []byte, mode os.FileMode) error {
	return r.Copy(hostPath, bytes.NewReader(data), mode)
}

// Copy is WriteFile for files that are better not held in memory.
func (r *Root) Copy(hostPath string, from io.Reader, mode os.FileMode) (err error) {
	dir, name, err := r.parent(hostPath)
	if err != nil {
		return err
	}
	defer dir.Close()
	if err := r.RemoveTemporary(path.Dir(path.Clean(hostPath))); err != nil {
		return err
	}
	r.step("write", hostPath)
	temp := TempPrefix + uuid.NewString()
	defer func() {
		if err != nil {
			_ = unix.Unlinkat(int(dir.Fd()), temp, 0)
			err = fmt.Errorf("write %s: %w", hostPath, err)
		}
	}()
	fd, err := unix.Openat(int(dir.Fd()), temp, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return err
	}
	f := os.NewFile(uintptr(fd), temp)
	_, err = io.Copy(f, from)
	if err == nil {
		err = likeOld(dir, name, f)
	}
	if err == nil {
		err = f.Chmod(mode.Perm())
	}
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	r.step("rename", hostPath)
	if err := unix.Renameat(int(dir.Fd()), temp, int(dir.Fd()), name); err != nil {
		return err
	}
	defer r.step("wrote", hostPath)
	return r.sync(path.Dir(path.Clean(hostPath)))
}

// likeOld gives a file the owner and the SELinux label of the one that it will replace.
func likeOld(dir *os.File, name string, f *os.File) error {
	var old unix.Stat_t
	err := unix.Fstatat(int(dir.Fd()), name, &old, unix.AT_SYMLINK_NOFOLLOW)
	if errors.Is(err, unix.ENOENT) || err == nil && old.Mode&unix.S_IFMT != unix.S_IFREG {
		return nil
	}
	if err != nil {
		return err
	}
	if int(old.Uid) != os.Geteuid() || int(old.Gid) != os.Getegid() {
		if err := f.Chown(int(old.Uid), int(old.Gid)); err != nil {
			return err
		}
	}
	const selinux = "security.selinux"
	label := make([]byte, 1024)
	place := fmt.Sprintf("/proc/self/fd/%d/%s", dir.Fd(), name)
	if n, err := unix.Lgetxattr(place, selinux, label); err == nil {
		_ = unix.Fsetxattr(int(f.Fd()), selinux, label[:n], 0) // a host without SELinux has none to keep
	}
	return nil
}

// Symlink makes a link, or replaces the one that is there. Anything else there is an ErrLink.
func (r *Root) Symlink(target, hostPath string) error {
	dir, name, err := r.parent(hostPath)
	if err != nil {
		return err
	}
	defer dir.Close()
	if old, err := readlinkat(dir, name); err == nil && old == target {
		return nil
	} else if errors.Is(err, unix.EINVAL) {
		return fmt.Errorf("%s is there and no symbolic link: %w", hostPath, ErrLink)
	}
	if err := r.RemoveTemporary(path.Dir(path.Clean(hostPath))); err != nil {
		return err
	}
	r.step("link", hostPath)
	temp := TempPrefix + uuid.NewString()
	if err := unix.Symlinkat(target, int(dir.Fd()), temp); err != nil {
		return &fs.PathError{Op: "symlink", Path: hostPath, Err: err}
	}
	r.step("rename link", hostPath)
	if err := unix.Renameat(int(dir.Fd()), temp, int(dir.Fd()), name); err != nil {
		_ = unix.Unlinkat(int(dir.Fd()), temp, 0)
		return &fs.PathError{Op: "rename", Path: hostPath, Err: err}
	}
	defer r.step("linked", hostPath)
	return r.sync(path.Dir(path.Clean(hostPath)))
}

// Remove removes a file, a link or an empty folder. One that is not there is removed already.
func (r *Root) Remove(hostPath string) error {
	dir, name, err := r.parent(hostPath)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer dir.Close()
	r.step("remove", hostPath)
	err = unix.Unlinkat(int(dir.Fd()), name, 0)
	if errors.Is(err, unix.EISDIR) {
		err = unix.Unlinkat(int(dir.Fd()), name, unix.AT_REMOVEDIR)
	}
	if err != nil && !errors.Is(err, unix.ENOENT) {
		return &fs.PathError{Op: "remove", Path: hostPath, Err: err}
	}
	defer r.step("removed", hostPath)
	return r.sync(path.Dir(path.Clean(hostPath)))
}

// RemoveAll removes a folder with all that is in it. Links in it are removed, never followed.
func (r *Root) RemoveAll(hostPath string) error {
	err := r.Remove(hostPath)
	if !errors.Is(err, ErrNotEmpty) {
		return err
	}
	entries, err := r.ReadDir(hostPath)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if err := r.RemoveAll(path.Join(hostPath, e.Name())); err != nil {
			return err
		}
	}
	return r.Remove(hostPath)
}

// RemoveTemporary removes what a crash has left of this package's own in a folder. Nobody else may be writing there.
func (r *Root) RemoveTemporary(hostPath string) error {
	entries, err := r.ReadDir(hostPath)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), TempPrefix) {
			if err := r.Remove(path.Join(hostPath, e.Name())); err != nil {
				return err
			}
		}
	}
	return nil
}

func (r *Root) sync(hostPath string) error {
	dir, err := r.openat2(hostPath, unix.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}

// ErrNotEmpty is returned by Remove for a folder with something in it.
var ErrNotEmpty = unix.ENOTEMPTY

// Lock locks a file, which it makes and which nobody may remove, until the returned one is closed. It waits for whoever
// has it.
func (r *Root) Lock(ctx context.Context, hostPath string) (*os.File, error) {
	for {
		f, err := r.tryLock(hostPath)
		if !errors.Is(err, unix.EWOULDBLOCK) {
			return f, err
		}
		select {
		case <-time.After(100 * time.Millisecond):
		case <-ctx.Done():
			return nil, fmt.Errorf("lock %s: %w", hostPath, ctx.Err())
		}
	}
}

func (r *Root) tryLock(hostPath string) (*os.File, error) {
	dir, name, err := r.parent(hostPath)
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	fd, err := unix.Openat(int(dir.Fd()), name, unix.O_RDWR|unix.O_CREAT|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return nil, &fs.PathError{Op: "lock", Path: hostPath, Err: err}
	}
	f := os.NewFile(uintptr(fd), hostPath)
	if err := unix.Flock(fd, unix.LOCK_EX|unix.LOCK_NB); err != nil {
		_ = f.Close()
		return nil, err
	}
	return f, nil
}
