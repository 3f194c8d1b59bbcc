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

// unlimited writes until that takes less than half of what it would with a limit: a host that does something else
// meanwhile is slow, too. It gives up in the end.
func (c *containerIn) unlimited(count, blockBytes int, withLimit time.Duration) (took time.Duration) {
	c.t.Helper()
	for range 10 {
		if took = c.write(count, blockBytes); took < withLimit/2 {
			return took
		}
	}
	return took
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
	for _, tc := range []struct {
		name              string
		limits            vm.DiskLimits
		count, blockBytes int
		perSecond         float64 // of blocks
	}{
		{"operations", vm.DiskLimits{IOPS: 50}, 150, 4096, 50},
		{"written operations", vm.DiskLimits{WriteIOPS: 60, ReadIOPS: 10}, 180, 4096, 60},
		{"bytes", vm.DiskLimits{BytesPerSecond: mib}, 12, 256 << 10, 4},
	} {
		c.write(tc.count, tc.blockBytes) // allocates the blocks
		least := time.Duration(float64(tc.count) / tc.perSecond * float64(time.Second))
		before := c.unlimited(tc.count, tc.blockBytes, least)
		limit(tc.limits)
		during := c.write(tc.count, tc.blockBytes)
		limit(vm.DiskLimits{})
		after := c.unlimited(tc.count, tc.blockBytes, least)
		t.Logf("%s: %d blocks took %v before, %v with the limit, %v after; by the limit %v", tc.name, tc.count, before, during, after, least)
		// A tenth of a second's worth may come at once.
		if during < least*8/10 {
			t.Errorf("%s: the limit does not hold", tc.name)
		}
		if before > least/2 || after > least/2 {
			t.Errorf("%s: the limit holds while there is none", tc.name)
		}
	}
	// A burst lets more through for a while.
	limit(vm.DiskLimits{IOPS: 20, BurstIOPS: 400, BurstSeconds: 2})
	if took := c.unlimited(100, 4096, 100*time.Second/20); took > 100*time.Second/20*8/10 {
		t.Errorf("100 operations took %v with a burst of 400 for two seconds", took)
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
