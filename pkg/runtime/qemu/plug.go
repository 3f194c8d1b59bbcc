package qemu

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"strings"
	"time"

	"github.com/katadirect/katadirect/internal/rollback"
	"github.com/katadirect/katadirect/pkg/runtime/qmp"
	"github.com/katadirect/katadirect/pkg/runtime/vm"
)

// commandTimeout bounds the commands of one operation. They take milliseconds; a QEMU that needs longer hangs on
// storage that does not answer.
const commandTimeout = 10 * time.Second

var diskID = regexp.MustCompile(`^[a-z0-9-]{1,20}$`)

// PlugDisk implements vm.Machine. Nothing is left of the disk when it fails.
func (m *Machine) PlugDisk(ctx context.Context, d vm.Disk) (_ vm.DiskAddress, err error) {
	defer wrap(&err, "plug disk %s (%s)", d.ID, d.Path)
	run, err := m.control()
	if err != nil {
		return vm.DiskAddress{}, err
	}
	if !diskID.MatchString(d.ID) {
		return vm.DiskAddress{}, errors.New("a disk's id is 1 to 20 of a-z, 0-9 and -")
	}
	if err := ctx.Err(); err != nil {
		return vm.DiskAddress{}, context.Cause(ctx)
	}
	// A command that was sent cannot be taken back, so from here on the caller's impatience counts no more.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), commandTimeout)
	defer cancel()
	var undo rollback.Stack
	defer undo.OnError(ctx, &err)

	disk, err := m.disks.reserve(d.ID)
	if err != nil {
		return vm.DiskAddress{}, err
	}
	undo.Push("free the slot", func(ctx context.Context) error {
		err := m.takeBack(ctx, run.qmp, disk)
		m.disks.forget(disk)
		if errors.Is(err, qmp.ErrClosed) {
			return nil // QEMU took it all with it
		}
		return err
	})
	run.watch.faults.forget(d.ID)
	if disk.backing, err = openBacking(d.Path, d.ReadOnly); err != nil {
		return vm.DiskAddress{}, err
	}
	if err := m.bringIn(ctx, run.qmp, disk, d.ReadOnly); err != nil {
		return vm.DiskAddress{}, m.explain(inUse(err))
	}
	disk.release()
	return disk.at.guest(), nil
}

// wrap says what failed and keeps what it was.
func wrap(err *error, format string, args ...any) {
	if *err != nil {
		*err = fmt.Errorf(format+": %w", append(args, *err)...)
	}
}

// bringIn gives QEMU the descriptor, makes a block node of it, and plugs that into the guest.
func (m *Machine) bringIn(ctx context.Context, client *qmp.Client, d *disk, readOnly bool) error {
	err := client.RunWithFile(ctx, d.backing.data, "add-fd", map[string]any{"fdset-id": d.fdset, "opaque": d.id}, nil)
	if err != nil {
		return err
	}
	d.hasFD = true
	d.backing.handedOver()
	if err := client.Run(ctx, "blockdev-add", m.blockNode(d, readOnly), nil); err != nil {
		return err
	}
	d.hasNode = true
	device := d.at.device(d.device(), d.node(), d.id)
	if m.cfg.IOThread && d.at.driver == VirtioBlk { // SCSI disks run in their controller's
		device["iothread"] = ioThread
	}
	if err := client.Run(ctx, "device_add", device, nil); err != nil {
		return err
	}
	d.hasDevice = true
	return nil
}

// blockNode is the blockdev-add of a disk. The image format is always raw: probing would let a guest write itself
// another one, with the name of a host file in it. Discards go through to the host, so that space which the guest
// frees is free.
func (m *Machine) blockNode(d *disk, readOnly bool) map[string]any {
	file := map[string]any{
		"driver": d.backing.driver(), "filename": fmt.Sprintf("/dev/fdset/%d", d.fdset),
		"aio": m.cfg.BlockAIO, "read-only": readOnly, "discard": "unmap", "locking": "on",
	}
	node := map[string]any{
		"driver": "raw", "node-name": d.node(), "read-only": readOnly, "discard": "unmap", "file": file,
	}
	if cache := m.cfg.cache(); cache != nil {
		file["cache"], node["cache"] = cache, cache
	}
	return node
}

// cache is QEMU's BlockdevCacheOptions, nil to leave it alone. QEMU has native I/O only with direct.
func (c Config) cache() map[string]any {
	native := c.BlockAIO == "native"
	if c.BlockCache == nil {
		if native {
			return map[string]any{"direct": true}
		}
		return nil
	}
	return map[string]any{"direct": native || c.BlockCache.Direct, "no-flush": c.BlockCache.NoFlush}
}

// inUse recognises the refusal of a file that another QEMU, or this one, has open already.
func inUse(err error) error {
	var refusal *qmp.CommandError
	if errors.As(err, &refusal) && strings.HasPrefix(refusal.Description, "Failed to get ") && strings.Contains(refusal.Description, " lock") {
		return fmt.Errorf("%w: %w", vm.ErrInUse, err)
	}
	return err
}
