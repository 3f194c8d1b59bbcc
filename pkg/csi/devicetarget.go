package csi

import (
	"errors"
	"fmt"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"

	"github.com/katadirect/katadirect/pkg/csi/loop"
)

const (
	// deviceTargetMode is of the file that a device's node is bound over. Nobody reads it.
	deviceTargetMode = 0o600
	// loopMajor is the number of all loop devices.
	loopMajor = 7
)

// deviceTarget is what stands at the target path of a raw block volume.
type deviceTarget struct {
	missing bool
	// rdev is the number of the loop device whose node is bound there, 0 if there is only the file for it.
	rdev uint64
}

// lookAtDeviceTarget returns an ErrState for what this driver cannot have put there. An empty file is what a publish
// that was cut short leaves, and a reboot.
func lookAtDeviceTarget(path string) (deviceTarget, error) {
	var stat unix.Statx_t
	err := unix.Statx(unix.AT_FDCWD, path, unix.AT_SYMLINK_NOFOLLOW, unix.STATX_BASIC_STATS, &stat)
	if errors.Is(err, unix.ENOENT) {
		return deviceTarget{missing: true}, nil
	}
	if err != nil {
		return deviceTarget{}, &fs.PathError{Op: "stat", Path: path, Err: err}
	}
	mounted := stat.Attributes&unix.STATX_ATTR_MOUNT_ROOT != 0
	switch kind := stat.Mode & unix.S_IFMT; {
	case kind == unix.S_IFBLK && mounted && stat.Rdev_major == loopMajor:
		return deviceTarget{rdev: unix.Mkdev(stat.Rdev_major, stat.Rdev_minor)}, nil
	case kind == unix.S_IFREG && !mounted && stat.Size == 0:
		return deviceTarget{}, nil
	}
	return deviceTarget{}, failf(ErrState, "at the target path %s there is something that is neither this volume's device "+
		"nor an empty file; this driver has not made it and leaves it", path)
}

// bindDevice binds the device's node over a file at the target path, and reports whether it did: it may have before.
func bindDevice(device loop.Device, path string) (made bool, err error) {
	target, err := lookAtDeviceTarget(path)
	switch {
	case err != nil:
		return false, err
	case target.rdev == device.Number:
		return false, nil
	case target.rdev != 0:
		// The volume had this device before it was staged anew. The node of it leads nowhere, or to another volume.
		if err := unmountDevice(path); err != nil {
			return false, err
		}
	case target.missing:
		file, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL|unix.O_NOFOLLOW, deviceTargetMode)
		if err != nil {
			return false, fmt.Errorf("make the target path: %w", err)
		}
		if err := file.Close(); err != nil {
			return false, fmt.Errorf("make the target path: %w", err)
		}
	}
	if err := unix.Mount(device.Path, path, "", unix.MS_BIND, ""); err != nil {
		return false, errors.Join(
			fmt.Errorf("bind %s to the target path: %w", device.Path, &fs.PathError{Op: "mount", Path: path, Err: err}),
			removeDevice(path))
	}
	return true, nil
}

// removeDevice removes the device's node and the file below it. Nothing there is a success.
func removeDevice(path string) error {
	target, err := lookAtDeviceTarget(path)
	// What is bound there twice is two mounts.
	for err == nil && target.rdev != 0 {
		if err = unmountDevice(path); err == nil {
			target, err = lookAtDeviceTarget(path)
		}
	}
	if err != nil || target.missing {
		return err
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove the target path: %w", err)
	}
	return nil
}

// unmountDevice takes a bound node away. Whoever has the device open keeps it.
func unmountDevice(path string) error {
	if err := unix.Unmount(path, unix.UMOUNT_NOFOLLOW|unix.MNT_DETACH); err != nil {
		return fmt.Errorf("take the device's node away: %w", &fs.PathError{Op: "umount", Path: path, Err: err})
	}
	return nil
}

// isDeviceTarget reports whether what stands at a path is, or was to be, a device's node rather than a folder.
func isDeviceTarget(path string) bool {
	info, err := os.Lstat(path)
	return err == nil && !info.IsDir() && info.Mode()&fs.ModeSymlink == 0
}
