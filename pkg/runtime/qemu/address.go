package qemu

import (
	"fmt"

	"github.com/katadirect/katadirect/pkg/runtime/vm"
)

// Slots of a PCI bridge that can take a disk. Slot 0 is the bridge's own hot-plug controller in Kata's numbering,
// and 31 is left out as there.
const (
	firstSlot      = 1
	slotsPerBridge = 30
)

// Kata numbers SCSI disks id = n/256, lun = n%256; QEMU's controller has as many ids.
const (
	lunsPerSCSIID = 256
	scsiIDs       = 256
)

// address is a place for a disk in the machine.
type address struct {
	driver string // VirtioBlk or VirtioSCSI
	n      int    // counted over all bridges, or over all SCSI ids
}

// places are the addresses of a machine. Use it under a lock.
type places struct {
	driver string
	total  int
	taken  map[int]bool
}

func newPlaces(c Config) places {
	p := places{driver: c.BlockDriver, total: c.Bridges * slotsPerBridge, taken: map[int]bool{}}
	if c.BlockDriver == VirtioSCSI {
		p.total = scsiIDs * lunsPerSCSIID
	}
	return p
}

// take reserves the lowest free address.
func (p *places) take() (address, error) {
	for n := range p.total {
		if !p.taken[n] {
			p.taken[n] = true
			return address{p.driver, n}, nil
		}
	}
	if p.driver == VirtioSCSI {
		return address{}, fmt.Errorf("%w: all %d SCSI addresses are taken", vm.ErrNoSlot, p.total)
	}
	return address{}, fmt.Errorf("%w: all %d slots of %d PCI bridge(s) are taken; raise default_bridges (at most %d) or set block_device_driver = %q",
		vm.ErrNoSlot, p.total, p.total/slotsPerBridge, maxBridges, VirtioSCSI)
}

func (p *places) free(a address) { delete(p.taken, a.n) }

func (a address) bridge() int { return a.n / slotsPerBridge }
func (a address) slot() int   { return firstSlot + a.n%slotsPerBridge }
func (a address) scsi() (id, lun int) {
	return a.n / lunsPerSCSIID, a.n % lunsPerSCSIID
}

// guest is the address in the words of the agent's Storage message.
func (a address) guest() vm.DiskAddress {
	if a.driver == VirtioSCSI {
		id, lun := a.scsi()
		return vm.DiskAddress{Driver: "scsi", Source: fmt.Sprintf("%d:%d", id, lun)}
	}
	return vm.DiskAddress{Driver: "blk", Source: fmt.Sprintf("%02x/%02x", firstBridgeSlot+a.bridge(), a.slot())}
}

// device is the device_add of a disk at this address. share-rw stays off, unlike in Kata: with it QEMU would not lock
// the image against other machines.
func (a address) device(id, node, serial string) map[string]any {
	d := map[string]any{"id": id, "drive": node, "serial": serial}
	if a.driver == VirtioSCSI {
		scsi, lun := a.scsi()
		d["driver"], d["bus"], d["scsi-id"], d["lun"] = "scsi-hd", scsiID+".0", scsi, lun
		return d
	}
	// addr is read as hexadecimal.
	d["driver"], d["bus"], d["addr"] = "virtio-blk-pci", fmt.Sprintf("%s%d", bridgePrefix, a.bridge()), fmt.Sprintf("%02x", a.slot())
	return d
}
