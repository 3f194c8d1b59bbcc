package qemu

import (
	"fmt"
	"os"
	"strconv"
	"strings"

	"github.com/katadirect/katadirect/pkg/runtime/vm"
)

// MaxNICs is how many network cards a machine can have: the slots of the root bus from firstNICSlot on, but the last
// two, which are left to the board.
const (
	MaxNICs      = 14
	firstNICSlot = 0x10
)

// NICPath is where the guest finds the n-th network card, as a PCI path in the agent's words.
func NICPath(n int) string { return fmt.Sprintf("%02x", firstNICSlot+n) }

// wiredNIC is a network card with the numbers under which QEMU finds its descriptors.
type wiredNIC struct {
	vm.NIC
	taps   []int
	stream int // 0 where there is none
}

// vhostNet moves a card's frames in the host's kernel instead of in QEMU.
const vhostNet = "/dev/vhost-net"

// NICQueues is how many queues a card of a machine with that many processors gains from: without the host's kernel to
// serve them, one thread of QEMU serves them all.
func NICQueues(vcpus int) int {
	if vcpus > 1 && hasVhostNet() {
		return vcpus
	}
	return 1
}

func hasVhostNet() bool {
	f, err := os.OpenFile(vhostNet, os.O_RDWR, 0)
	if err != nil {
		return false
	}
	return f.Close() == nil
}

// nicDevices is what QEMU is told about the cards. They are there from the start, for that costs the guest no
// hot-plugging; each in a slot of its own, so that a card has the same place whatever else the machine has.
func nicDevices(nics []wiredNIC, vhost bool) []string {
	var a []string
	for n, nic := range nics {
		id := "net" + strconv.Itoa(n)
		// No boot from the network: without a ROM the firmware does not look at the card at all.
		device := fmt.Sprintf("virtio-net-pci,netdev=%s,mac=%s,bus=pcie.0,addr=%s,romfile=", id, nic.MAC, NICPath(n))
		if len(nic.taps) > 1 {
			// One vector for each queue's two directions, one for the configuration, one for control.
			device += fmt.Sprintf(",mq=on,vectors=%d", 2*len(nic.taps)+2)
		}
		a = append(a, "-netdev", nic.backend(id, vhost), "-device", device)
	}
	return a
}

func (nic wiredNIC) backend(id string, vhost bool) string {
	if nic.stream != 0 {
		return fmt.Sprintf("stream,id=%s,server=off,addr.type=fd,addr.str=%d", id, nic.stream)
	}
	numbers := make([]string, 0, len(nic.taps))
	for _, fd := range nic.taps {
		numbers = append(numbers, strconv.Itoa(fd))
	}
	key := "fd"
	if len(numbers) > 1 {
		key = "fds"
	}
	backend := fmt.Sprintf("tap,id=%s,%s=%s", id, key, strings.Join(numbers, ":"))
	if vhost {
		backend += ",vhost=on"
	}
	return backend
}
