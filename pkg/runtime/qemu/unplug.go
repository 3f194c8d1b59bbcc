package qemu

import (
	"context"
	"errors"
	"strings"
	"time"

	"github.com/katadirect/katadirect/pkg/runtime/qmp"
)

const (
	// unplugTimeout bounds the wait for the guest to let go of a disk.
	unplugTimeout = 20 * time.Second
	// unplugRepeat is how often the guest is asked again: one that is still booting forgets.
	unplugRepeat = time.Second
)

// UnplugDisk implements vm.Machine. It needs the guest's help, and gives up after twenty seconds without; the disk
// then stays plugged, and the call can be repeated.
func (m *Machine) UnplugDisk(ctx context.Context, id string) (err error) {
	defer wrap(&err, "unplug disk %s", id)
	run, err := m.control()
	if err != nil {
		return err
	}
	disk, err := m.disks.acquire(ctx, id)
	if disk == nil || err != nil {
		return err
	}
	if disk.hasDevice {
		if err := pullOut(ctx, run.qmp, disk); err != nil {
			disk.release()
			return m.explain(err)
		}
		disk.hasDevice = false
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), commandTimeout)
	defer cancel()
	if disk.copying() {
		if err := disk.copy.Cancel(ctx); err != nil {
			disk.release()
			return m.explain(err)
		}
	}
	if err := m.takeBack(ctx, run.qmp, disk); err != nil {
		disk.release()
		return m.explain(err)
	}
	m.disks.forget(disk)
	return nil
}

// pullOut asks the guest to let go of the device and waits until it has.
func pullOut(ctx context.Context, client *qmp.Client, d *disk) error {
	ctx, cancel := context.WithTimeoutCause(ctx, unplugTimeout, errors.New("the guest does not let go of it"))
	defer cancel()
	gone := client.Subscribe(1, func(e qmp.Event) bool {
		var data struct{ Device string }
		return e.Name == "DEVICE_DELETED" && e.Decode(&data) == nil && data.Device == d.device()
	})
	defer gone.Close()
	for {
		err := client.Run(ctx, "device_del", map[string]any{"id": d.device()}, nil)
		var refusal *qmp.CommandError
		switch {
		case errors.As(err, &refusal) && refusal.Class == qmp.ClassDeviceNotFound:
			return nil
		case errors.As(err, &refusal) && strings.Contains(refusal.Description, "already in the process of unplug"):
		case err != nil:
			return err
		}
		again, stop := context.WithTimeout(ctx, unplugRepeat)
		_, err = gone.Next(again)
		stop()
		if err == nil || ctx.Err() != nil || errors.Is(err, qmp.ErrClosed) {
			return err
		}
	}
}

// takeBack undoes as much of bringIn as was done, for a device that the guest has not got or has let go of.
func (m *Machine) takeBack(ctx context.Context, client *qmp.Client, d *disk) error {
	if d.backing != nil {
		d.backing.close()
	}
	if d.hasNode {
		if err := deleteNode(ctx, client, d.node()); err != nil {
			return err
		}
		d.hasNode = false
	}
	if d.hasFD {
		if err := client.Run(ctx, "remove-fd", map[string]any{"fdset-id": d.fdset}, nil); err != nil {
			return err
		}
		d.hasFD = false
	}
	return nil
}

// deleteNode removes a block node from QEMU. A device that has just gone may hold its node for some more
// milliseconds: QEMU reports it deleted before it has taken it apart.
func deleteNode(ctx context.Context, client *qmp.Client, node string) error {
	const pause = time.Millisecond
	for {
		err := client.Run(ctx, "blockdev-del", map[string]any{"node-name": node}, nil)
		var refusal *qmp.CommandError
		if !errors.As(err, &refusal) || !strings.HasSuffix(refusal.Description, "is in use") {
			return err
		}
		select {
		case <-ctx.Done():
			return errors.Join(err, context.Cause(ctx))
		case <-time.After(pause):
		}
	}
}
