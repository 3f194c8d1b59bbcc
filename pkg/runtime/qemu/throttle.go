package qemu

import (
	"context"

	"github.com/katadirect/katadirect/pkg/runtime/vm"
)

// ThrottleDisk implements vm.Machine. QEMU holds back the requests of the device, not of the block node below it: what
// the host itself does with the node, a copy of it say, is not limited.
func (m *Machine) ThrottleDisk(ctx context.Context, id string, limits vm.DiskLimits) (err error) {
	defer wrap(&err, "throttle disk %s", id)
	run, err := m.control()
	if err != nil {
		return err
	}
	disk, err := m.disks.acquire(ctx, id)
	if err != nil {
		return err
	}
	if disk == nil {
		return vm.ErrNotFound
	}
	defer disk.release()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), commandTimeout)
	defer cancel()
	return m.explain(run.qmp.Run(ctx, "block_set_io_throttle", throttle(disk, limits), nil))
}

// throttle are QEMU's arguments. It wants all totals and parts, and refuses a burst of zero seconds.
func throttle(d *disk, l vm.DiskLimits) map[string]any {
	arguments := map[string]any{
		"id":   d.backend(),
		"iops": l.IOPS, "iops_rd": l.ReadIOPS, "iops_wr": l.WriteIOPS,
		"bps": l.BytesPerSecond, "bps_rd": l.ReadBytesPerSecond, "bps_wr": l.WriteBytesPerSecond,
	}
	seconds := max(1, l.BurstSeconds)
	if l.BurstIOPS != 0 {
		arguments["iops_max"], arguments["iops_max_length"] = l.BurstIOPS, seconds
	}
	if l.BurstBytesPerSecond != 0 {
		arguments["bps_max"], arguments["bps_max_length"] = l.BurstBytesPerSecond, seconds
	}
	return arguments
}

// backend is the QOM path of the device that does the disk's I/O. A virtio-blk-pci is only the card that it sits on.
func (d *disk) backend() string {
	path := "/machine/peripheral/" + d.device()
	if d.at.driver == VirtioBlk {
		path += "/virtio-backend"
	}
	return path
}
