package hostmount

import (
	"context"
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// Bind shows what is mounted at from at another path, which is a folder, in one step: it is there as it should be, or
// not at all. mount(8) makes a bind mount first and then read-only, and a driver that is killed in between would leave a
// pod that reads only with a volume it can write to. It has to be the caller who knows that nothing is there yet.
func (m *Mounts) Bind(from, to string, readOnly bool) error {
	tree, err := unix.OpenTree(unix.AT_FDCWD, from, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_SYMLINK_NOFOLLOW)
	if err != nil {
		return fmt.Errorf("bind %s to %s: clone the mount: %w", from, to, err)
	}
	defer unix.Close(tree)
	if readOnly {
		attributes := unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY}
		if err := unix.MountSetattr(tree, "", unix.AT_EMPTY_PATH, &attributes); err != nil {
			return fmt.Errorf("bind %s to %s: make it read-only: %w", from, to, err)
		}
	}
	if err := unix.MoveMount(tree, "", unix.AT_FDCWD, to, unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
		return fmt.Errorf("bind %s to %s: %w", from, to, err)
	}
	return nil
}

// Unbind takes the image's mounts at a path away: more than one, if they were made on top of each other. Another's
// stay. Nothing there is a success. The image itself may have vanished, as for Release.
func (m *Mounts) Unbind(ctx context.Context, image, path string) error {
	points, err := m.held(ctx, image)
	if err != nil {
		return err
	}
	for _, p := range points {
		if p.Path != path {
			continue
		}
		if err := unmount(path); err != nil {
			return err
		}
	}
	return nil
}

// Release unmounts the image at its staging path and takes its loop device away. It returns ErrMounted, and changes
// nothing, while it is mounted anywhere else. Nothing there is a success.
func (m *Mounts) Release(ctx context.Context, image, staging string) error {
	points, err := m.held(ctx, image)
	if err != nil {
		return err
	}
	for _, p := range points {
		if !p.Is(staging) {
			return fmt.Errorf("%w at %s", ErrMounted, p.Path)
		}
	}
	if err := m.Unbind(ctx, image, staging); err != nil {
		return err
	}
	return m.loops.Detach(ctx, image)
}

func unmount(path string) error {
	err := unix.Unmount(path, unix.UMOUNT_NOFOLLOW)
	if errors.Is(err, unix.EBUSY) {
		return fmt.Errorf("%w at %s, and a process is at work there: %w", ErrMounted, path, err)
	}
	if err != nil {
		return fmt.Errorf("unmount %s: %w", path, err)
	}
	return nil
}
