package filesystem

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// Mount mounts source at target, which it makes if need be. A file system of
// the same identity that is mounted already (a clone of a volume beside the
// volume itself) is a reason for xfs to refuse; then, and only then, it is
// mounted with nouuid.
func Mount(source, target, fstype string, options MountOptions) error {
	if err := os.MkdirAll(target, 0o755); err != nil {
		return fmt.Errorf("make mount point: %w", err)
	}
	err := unix.Mount(source, target, fstype, options.Flags, options.Data)
	if errors.Is(err, unix.EINVAL) && fstype == "xfs" && xfsTwinMounted(source) {
		data := "nouuid"
		if options.Data != "" {
			data += "," + options.Data
		}
		err = unix.Mount(source, target, fstype, options.Flags, data)
	}
	if err != nil {
		return fmt.Errorf("mount %s at %s as %s (options %q): %w", source, target, fstype, options.Data, explain(err))
	}
	return nil
}

// Bind makes source visible at target too, with everything mounted below it if
// recursive. Flags other than read-only are those of the source.
func Bind(source, target string, options MountOptions) error {
	flags := uintptr(unix.MS_BIND)
	if options.Recursive {
		flags |= unix.MS_REC
	}
	if err := unix.Mount(source, target, "", flags, ""); err != nil {
		return fmt.Errorf("bind %s to %s: %w", source, target, err)
	}
	if options.Flags == 0 {
		return nil
	}
	// A bind mount takes its flags only in a second step.
	if err := unix.Mount("", target, "", unix.MS_BIND|unix.MS_REMOUNT|options.Flags, ""); err != nil {
		_ = unix.Unmount(target, unix.MNT_DETACH)
		return fmt.Errorf("set the flags of the bind mount %s: %w", target, err)
	}
	return nil
}

// explain adds what the kernel's number leaves out.
func explain(err error) error {
	switch {
	case errors.Is(err, unix.EUCLEAN):
		return fmt.Errorf("%w: %w", ErrDamaged, err)
	case errors.Is(err, unix.ENODEV):
		return fmt.Errorf("the guest's kernel does not know this type: %w", err)
	case errors.Is(err, unix.EINVAL):
		return fmt.Errorf("the kernel refused the file system or its options: %w", err)
	}
	return err
}

// Unmount takes the mount at target away and removes the empty folder, or the
// empty file, that it stood on. A
// target that is not mounted, or not there, is fine.
func Unmount(target string) error {
	err := unix.Unmount(target, unix.UMOUNT_NOFOLLOW)
	switch {
	case errors.Is(err, unix.EBUSY):
		return fmt.Errorf("unmount %s: %w", target, ErrBusy)
	case err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT):
		return fmt.Errorf("unmount %s: %w", target, err)
	}
	if err := removeEmpty(target); err != nil {
		return fmt.Errorf("remove mount point %s: %w", target, err)
	}
	return nil
}

// removeEmpty removes an empty folder or file. What is in there, or on a share
// that cannot be written to, was there before and is not ours to delete.
func removeEmpty(path string) error {
	info, err := os.Lstat(path)
	if err == nil && info.Mode().IsRegular() {
		if info.Size() > 0 {
			return nil
		}
		err = unix.Unlink(path)
	} else {
		err = unix.Rmdir(path)
	}
	for _, harmless := range []error{fs.ErrNotExist, unix.ENOTEMPTY, unix.EROFS, unix.EACCES, unix.EPERM} {
		if errors.Is(err, harmless) {
			return nil
		}
	}
	return err
}

// WaitReleased waits until ctx ends for the kernel to let go of a device: a
// file system lives on after its unmounting as long as another mount
// namespace, or an open file, holds it, and a device must not be unplugged
// before the last of it is written. ErrBusy if it does not.
func WaitReleased(ctx context.Context, node string) error {
	// Nothing announces the moment. It has come at the first look, or within
	// milliseconds of the last container process's end.
	const first, longest = time.Millisecond, 50 * time.Millisecond
	for pause := first; ; pause = min(2*pause, longest) {
		f, err := os.OpenFile(node, os.O_RDONLY|os.O_EXCL, 0)
		if err == nil {
			return f.Close()
		}
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENXIO) || errors.Is(err, unix.ENODEV) {
			return nil // it is gone altogether
		}
		if !errors.Is(err, unix.EBUSY) {
			return fmt.Errorf("wait for the release of %s: %w", node, err)
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return fmt.Errorf("%s is still held by a file system: %w", node, ErrBusy)
		}
	}
}

// Remount gives what is mounted at target other options.
func Remount(target string, options MountOptions) error {
	if err := unix.Mount("", target, "", unix.MS_REMOUNT|options.Flags, options.Data); err != nil {
		return fmt.Errorf("remount %s (options %q): %w", target, options.Data, explain(err))
	}
	return nil
}
