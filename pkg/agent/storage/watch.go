package storage

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/katadirect/katadirect/internal/filesystem"
	"github.com/katadirect/katadirect/pkg/agent/mirror"
)

// mountWatched makes a copy in memory of a folder whose content the host replaces, and has it follow. Programs are told
// of changes to the copy; of changes on the share they are not. What is no folder, or too large to be copied, is bound
// as it is: the content follows all the same.
func (m *Mounts) mountWatched(ctx context.Context, r request) (*mirror.Mirror, error) {
	info, err := os.Stat(r.source)
	if err != nil {
		return nil, err
	}
	if err := m.makeRoom(ctx, r.mountPoint); err != nil {
		return nil, err
	}
	if !info.IsDir() {
		return nil, mountBind(r)
	}
	// Two generations have their place in it. What is not used takes no memory.
	const options = "mode=0755,size=16m"
	memory := filesystem.MountOptions{Flags: unix.MS_NOSUID | unix.MS_NODEV, Data: options}
	if err := filesystem.Mount("watched", r.mountPoint, "tmpfs", memory); err != nil {
		removeMountPoint(r.mountPoint)
		return nil, err
	}
	watch, err := mirror.Start(r.source, r.mountPoint)
	if err == nil {
		return watch, nil
	}
	if undo := filesystem.Unmount(r.mountPoint); undo != nil || !errors.Is(err, mirror.ErrTooLarge) {
		return nil, errors.Join(err, undo)
	}
	slog.Info("the folder is shown as it is, without news of changes", "folder", r.source, "reason", err)
	return nil, mountBind(r)
}

// makeRoom makes a folder for a mount point of which Kata's shims have it that it is on the share, where only the host
// can make one: memory is mounted on the folder above it, and stays until the end.
func (m *Mounts) makeRoom(ctx context.Context, mountPoint string) error {
	above := filepath.Dir(mountPoint)
	e, err := m.acquire(ctx, above)
	if err != nil {
		return err
	}
	defer e.release()
	if err := os.MkdirAll(mountPoint, 0o755); err == nil {
		removeMountPoint(mountPoint)
		return nil
	} else if !errors.Is(err, unix.EROFS) && !errors.Is(err, unix.EACCES) {
		return err
	}
	options := filesystem.MountOptions{Flags: unix.MS_NOSUID | unix.MS_NODEV, Data: "mode=0755,size=1m"}
	if err := filesystem.Mount("watchable", above, "tmpfs", options); err != nil {
		return err
	}
	e.users, e.shared = 1, true
	return nil
}
