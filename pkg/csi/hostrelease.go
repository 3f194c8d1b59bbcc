package csi

import (
	"context"
	"errors"
	"fmt"
	"io/fs"

	"golang.org/x/sys/unix"

	"github.com/katadirect/katadirect/pkg/csi/hostmount"
	"github.com/katadirect/katadirect/pkg/csi/pool"
	"github.com/katadirect/katadirect/pkg/csi/stage"
)

// unpublishOnHost takes the volume's mount at the target path away, and with the last one all that the host has of it.
func (n *node) unpublishOnHost(ctx context.Context, id, targetPath string) error {
	present, err := n.staged.Get(ctx, id)
	switch known := err == nil && present.OnHost; {
	case err != nil && !errors.Is(err, stage.ErrNotStaged):
		return err
	case !known && !isMountedFolder(targetPath):
		return nil
	}
	target, err := realPath(targetPath)
	if err == nil {
		err = n.hosts.Unbind(ctx, n.pool.ImagePath(id), target)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("unpublish volume %s: %w", id, err)
	}
	if present.StagingPath != targetPath {
		return n.releaseUnlessUsed(ctx, id)
	}
	// An inline volume is staged by its publication alone, and its data goes next: nobody may have it mounted then.
	if err := n.letGo(ctx, id); err != nil {
		return err
	}
	return n.staged.Delete(ctx, id)
}

// releaseUnlessUsed is letGo that leaves a volume alone which other pods have.
func (n *node) releaseUnlessUsed(ctx context.Context, id string) error {
	return ignoring(n.letGo(ctx, id), ErrInUse)
}

// errUnnoted says that the host has nothing of a volume any more, and that staged state does not know.
var errUnnoted = errors.New("the host's mount is gone, which could not be written down")

// letGo is releaseHost that a full disk does not fail: what ends a pod must work there. Staged state cannot be written
// then, and goes on saying on-host until it is forgotten or a later call finds that nothing is mounted.
func (n *node) letGo(ctx context.Context, id string) error {
	err := n.releaseHost(ctx, id)
	full := errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT)
	if !full || !errors.Is(err, errUnnoted) {
		return err
	}
	n.log.WarnContext(ctx, "the disk is too full for staged state", "volume", id, "error", err)
	return nil
}

// releaseHost takes away what the host has of the volume: the mount at the staging path and the loop device. It returns
// ErrInUse, and changes nothing, while a pod has it mounted.
func (n *node) releaseHost(ctx context.Context, id string) error {
	present, err := n.staged.Get(ctx, id)
	if errors.Is(err, stage.ErrNotStaged) || err == nil && !present.OnHost {
		return nil
	}
	if err != nil {
		return err
	}
	staging, err := realPath(present.StagingPath)
	if errors.Is(err, fs.ErrNotExist) {
		staging, err = present.StagingPath, nil
	}
	if err == nil {
		err = n.hosts.Release(ctx, n.pool.ImagePath(id), staging)
	}
	if errors.Is(err, hostmount.ErrMounted) {
		return failf(ErrInUse, "volume %s is in use by an ordinary pod of this node; end that first: %w", id, err)
	}
	if err != nil {
		return fmt.Errorf("take the host's mount of volume %s away: %w", id, err)
	}
	present.OnHost = false
	if err := n.staged.Put(ctx, present); err != nil {
		return fmt.Errorf("%w: %w", errUnnoted, err)
	}
	return nil
}

// releaseForgotten takes away what is mounted at a staging path of which staged state does not know: somebody has removed
// that state. Nothing there, or something else, is none of its business.
func (n *node) releaseForgotten(ctx context.Context, id, stagingPath string) error {
	if !isMountedFolder(stagingPath) {
		return nil
	}
	staging, err := realPath(stagingPath)
	if err == nil {
		err = n.hosts.Release(ctx, n.pool.ImagePath(id), staging)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("unstage volume %s: %w", id, err)
	}
	return nil
}

// isMountedFolder reports whether a folder has something mounted on it.
func isMountedFolder(path string) bool {
	var stat unix.Statx_t
	err := unix.Statx(unix.AT_FDCWD, path, unix.AT_SYMLINK_NOFOLLOW, unix.STATX_TYPE, &stat)
	return err == nil && stat.Mode&unix.S_IFMT == unix.S_IFDIR && stat.Attributes&unix.STATX_ATTR_MOUNT_ROOT != 0
}

// leaveHost makes sure that a machine, and nobody else, can have the volume. From here on the host counts what is in it
// as a guest's.
func (n *node) leaveHost(ctx context.Context, v pool.Volume) error {
	if err := n.releaseHost(ctx, v.ID); err != nil {
		return err
	}
	return n.pool.UnmarkHostOnly(ctx, v.ID)
}
