package guest_test

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/katadirect/katadirect/pkg/runtime/qemu"
	"github.com/katadirect/katadirect/pkg/runtime/vm"
)

// write writes count blocks, each of them for itself and past the guest's cache, and returns how long that took.
func (c *containerIn) write(count, blockBytes int) time.Duration {
	c.t.Helper()
	begun := time.Now()
	c.must(fmt.Sprintf("busybox dd if=/dev/zero of=/data/file bs=%d count=%d oflag=direct conv=notrunc status=none", blockBytes, count))
	return time.Since(begun)
}

// quicker writes until that takes less than half of what it took with a limit, and reports whether it ever did: a host
// that does something else meanwhile is slow, too.
func (c *containerIn) quicker(count, blockBytes int, withLimit time.Duration) bool {
	c.t.Helper()
	for range 10 {
		if c.write(count, blockBytes) < withLimit/2 {
			return true
		}
	}
	return false
}

// braked is how many blocks in a second make so many of them take four times as long as without a limit, or longer, but
// no longer than half a minute.
func (c *containerIn) braked(count, blockBytes int, most uint64) uint64 {
	c.t.Helper()
	took := min(c.write(count, blockBytes), c.write(count, blockBytes))
	return max(1, uint64(count/30), min(most, uint64(float64(count)/4/took.Seconds())))
}

func TestLimitsHoldForAWriterFromTheMomentTheyAreSetUntilTheyAreLifted(t *testing.T) {
	for name, m := range map[string]func(*testing.T) *machine{
		"virtio-blk": theMachine,
		"virtio-scsi": func(t *testing.T) *machine {
			m := newMachine(t, qemu.Config{BlockDriver: qemu.VirtioSCSI, IOThread: true})
			if err := m.createSandbox(t.Context()); err != nil {
				t.Fatal(err)
			}
			return m
		},
	} {
		t.Run(name, func(t *testing.T) { writeUnderLimits(t, m(t)) })
	}
}

func writeUnderLimits(t *testing.T, m *machine) {
	d := m.plug(t, newImage(t, 64*mib), false)
	c := m.running(t, d.storage("ext4", ifBlank...))
	limit := func(l vm.DiskLimits) {
		t.Helper()
		if err := m.ThrottleDisk(t.Context(), d.id, l); err != nil {
			t.Fatal(err)
		}
	}
	for name, tc := range map[string]struct {
		limits            func(perSecond uint64) vm.DiskLimits
		count, blockBytes int
		most              uint64 // blocks in a second
	}{
		"operations":         {func(n uint64) vm.DiskLimits { return vm.DiskLimits{IOPS: n} }, 150, 4096, 50},
		"written operations": {func(n uint64) vm.DiskLimits { return vm.DiskLimits{WriteIOPS: n, ReadIOPS: 10} }, 180, 4096, 60},
		"bytes":              {func(n uint64) vm.DiskLimits { return vm.DiskLimits{BytesPerSecond: n * 256 << 10} }, 12, 256 << 10, 4},
	} {
		c.write(tc.count, tc.blockBytes) // allocates the blocks
		perSecond := c.braked(tc.count, tc.blockBytes, tc.most)
		least := time.Duration(tc.count) * time.Second / time.Duration(perSecond)
		limit(tc.limits(perSecond))
		during := c.write(tc.count, tc.blockBytes)
		limit(vm.DiskLimits{})
		// A tenth of a second's worth may come at once.
		if during < least*8/10 {
			t.Errorf("%s: the limit does not hold: %d blocks took %v, and should %v", name, tc.count, during, least)
		}
		if !c.quicker(tc.count, tc.blockBytes, during) {
			t.Errorf("%s: the limit, with which it took %v, holds when it is lifted", name, during)
		}
	}
	// A burst lets more through for a while.
	const count = 60
	perSecond := c.braked(count, 4096, 20)
	limit(vm.DiskLimits{IOPS: perSecond})
	without := c.write(count, 4096)
	limit(vm.DiskLimits{IOPS: perSecond, BurstIOPS: 20 * perSecond, BurstSeconds: 2})
	if !c.quicker(count, 4096, without) {
		t.Errorf("%d operations take as long with a burst as without: %v", count, without)
	}
	limit(vm.DiskLimits{})

	if err := m.ThrottleDisk(t.Context(), "nobody", vm.DiskLimits{IOPS: 50}); !errors.Is(err, vm.ErrNotFound) {
		t.Errorf("an unknown disk: %v", err)
	}
	if err := m.ThrottleDisk(t.Context(), d.id, vm.DiskLimits{IOPS: 50, ReadIOPS: 50}); err == nil {
		t.Error("QEMU takes a total beside its parts")
	}
	// What is held back does not keep the disk in the machine.
	limit(vm.DiskLimits{IOPS: 10})
	if err := c.remove(); err != nil {
		t.Fatal(err)
	}
	d.unplug()
	checkClean(t, "ext4", d.image)
}
