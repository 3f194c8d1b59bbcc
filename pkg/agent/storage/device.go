package storage

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/katadirect/katadirect/internal/filesystem"
	"github.com/katadirect/katadirect/internal/rollback"
	"github.com/katadirect/katadirect/pkg/agent/device"
	"github.com/katadirect/katadirect/pkg/agent/module"
)

// FindDisk waits for the disk that a driver and a source name, at most the
// time allowed for devices.
func (m *Mounts) FindDisk(ctx context.Context, driver, source string) (device.Disk, error) {
	ctx, cancel := context.WithTimeout(ctx, m.deviceTimeout())
	defer cancel()
	switch {
	case driver == "mmioblk" || driver == "blk" && strings.HasPrefix(source, "/dev/"):
		return m.Finder.DiskByNode(ctx, source)
	case driver == "blk":
		path, err := device.ParsePCIPath(source)
		if err != nil {
			return device.Disk{}, err
		}
		return m.Finder.DiskByPCIPath(ctx, path)
	case driver == "scsi":
		address, err := device.ParseSCSIAddress(source)
		if err != nil {
			return device.Disk{}, err
		}
		if err := m.Modules.Load(module.SCSI); err != nil {
			return device.Disk{}, err
		}
		return m.Finder.DiskBySCSI(ctx, address)
	}
	return device.Disk{}, fmt.Errorf("%w: %q has no disks", ErrDriver, driver)
}

// mountDevice finds a disk, makes sure that the right file system is on it,
// and mounts it.
func (m *Mounts) mountDevice(ctx context.Context, r request) (_ *Volume, err error) {
	var undo rollback.Stack
	defer undo.OnError(ctx, &err)

	if r.fstype == "" {
		return nil, fmt.Errorf("%w: no file system type", ErrRequest)
	}
	ending := m.ending() // before anything is mounted that the sandbox's end would wait for
	if r.mount.Bind {
		// Some CSI drivers record the flags of a host mount.
		slog.Warn("bind is no option for a device, and ignored", "mount_point", r.mountPoint)
	}
	disk, err := m.FindDisk(ctx, r.driver, r.source)
	if err != nil {
		return nil, err
	}
	if err := m.Modules.Load(r.fstype); err != nil {
		return nil, err
	}
	// Cut short, a check that takes longer than the shim waits would never come to its end, and a repair would stay half
	// done. So it goes on without the caller, who finds it done the next time.
	content, err := m.prepare(context.WithoutCancel(ctx), r, disk)
	if err == nil {
		err = ctx.Err()
	}
	if err != nil {
		return nil, err
	}
	if err := filesystem.MountDistinct(ctx, m.Tools, disk.Node, r.mountPoint, r.fstype, labelled(r.mount, r.selinuxLabel)); err != nil {
		removeMountPoint(r.mountPoint)
		return nil, err
	}
	undo.Push("unmount the volume", func(context.Context) error { return filesystem.Unmount(r.mountPoint) })

	v := &Volume{disk: disk, fstype: r.fstype, mountPoint: r.mountPoint, readOnly: r.mount.ReadOnly()}
	if r.growOnMount && !v.readOnly {
		switch err := v.growAfterMount(content); {
		case errors.Is(err, filesystem.ErrUnsupported):
			// The shim asks this of every volume, also of types that no kernel can grow in use.
			slog.Info("the file system stays in its size", "mount_point", r.mountPoint, "fstype", r.fstype)
		case err != nil:
			return nil, err
		}
	}
	if r.rootMode != 0 && !content.Used() {
		if err := unix.Chmod(r.mountPoint, r.rootMode); err != nil {
			return nil, err
		}
	}
	if r.group != nil {
		if err := m.handOver(ctx, ending, v, r.group); err != nil {
			return nil, err
		}
	}
	return v, nil
}

// prepare makes sure that the disk holds a sound file system of the type that
// is wanted, and returns what was on it before.
func (m *Mounts) prepare(ctx context.Context, r request, disk device.Disk) (filesystem.Content, error) {
	locked, err := disk.ReadOnly()
	if err != nil {
		return filesystem.Content{}, err
	}
	content, err := m.look(ctx, r, disk, locked)
	switch {
	case err != nil:
		return content, err
	case content.Used() && content.IsOther(r.fstype):
		return content, fmt.Errorf("%w: %s holds: %s; wanted %s", filesystem.ErrOccupied, disk.Node, content.Kind, r.fstype)
	case !content.Used() && !r.formatIfBlank:
		return content, fmt.Errorf("%s: %w", disk.Node, filesystem.ErrBlank)
	case !content.Used() && locked:
		return content, fmt.Errorf("format %s: %w", disk.Node, ErrReadOnly)
	case !content.Used(), locked, r.mount.ReadOnly():
		return content, nil
	}
	repaired, err := filesystem.Checker{Tools: m.Tools}.Check(ctx, disk.Node, r.fstype)
	if repaired != "" {
		slog.Warn("the file system was repaired", "disk", disk.Node, "mount_point", r.mountPoint, "fsck", repaired)
	}
	return content, err
}

// look finds out what is on a disk, and formats it if that is wanted and nothing is. A new volume's disk is looked through
// once for both.
func (m *Mounts) look(ctx context.Context, r request, disk device.Disk, locked bool) (filesystem.Content, error) {
	if !r.formatIfBlank || locked {
		return filesystem.Probe(disk.Node)
	}
	begins := func(content filesystem.Content) {
		slog.Info("the device is blank, and is being formatted", "disk", disk.Node, "fstype", r.fstype, "cut_short_before", content.Unfinished)
	}
	return filesystem.Formatter{Tools: m.Tools, Begins: begins}.FormatIfBlank(ctx, disk.Node, r.fstype,
		filesystem.How{Ephemeral: r.ephemeral, Options: r.mkfsOptions})
}
