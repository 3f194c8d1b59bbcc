package qemu_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/katadirect/katadirect/pkg/runtime/qemu"
	"github.com/katadirect/katadirect/pkg/runtime/vm"
)

func TestADiskComesGoesAndComesBackWithItsContent(t *testing.T) {
	g := sharedGuest(t)
	path := sparseFile(t, 64*mib)
	marker := bytes.Repeat([]byte("marker 1"), 512/8)
	for i := range 3 {
		address := g.plug(vm.Disk{ID: "vol-1", Path: path})
		if want := (vm.DiskAddress{Driver: "blk", Source: "02/01"}); address != want {
			t.Fatalf("address %v, want %v", address, want)
		}
		d := g.disk("vol-1", true)
		if d.Path != "0000:00:02.0/0000:01:01.0" || d.Size != 64*mib || d.ReadOnly {
			t.Fatalf("the guest sees %+v", d)
		}
		if i == 0 {
			g.ask(request{Do: "write", Serial: "vol-1", Offset: mib, Data: marker})
		} else if got := g.ask(request{Do: "read", Serial: "vol-1", Offset: mib, Data: make([]byte, 512)}); !bytes.Equal(got.Data, marker) {
			t.Fatalf("read %q back", got.Data)
		}
		g.unplug("vol-1")
		g.disk("vol-1", false)
		g.unplug("vol-1") // a second time succeeds
	}
	host, err := os.ReadFile(path)
	if err != nil || !bytes.Equal(host[mib:mib+512], marker) {
		t.Errorf("the file has not what the guest wrote: %v", err)
	}
}

func TestAReadOnlyDiskIsReadOnlyInTheGuest(t *testing.T) {
	g := sharedGuest(t)
	path := sparseFile(t, mib)
	if err := os.Chmod(path, 0o400); err != nil {
		t.Fatal(err)
	}
	g.plug(vm.Disk{ID: "ro", Path: path, ReadOnly: true})
	if d := g.disk("ro", true); !d.ReadOnly {
		t.Error("the guest may write")
	}
	if _, err := g.try(request{Do: "write", Serial: "ro", Data: make([]byte, 512)}); err == nil {
		t.Error("the guest wrote")
	}
	g.unplug("ro")
}

func TestABridgeTakesThirtyDisksAndSaysSo(t *testing.T) {
	g := sharedGuest(t)
	for i := range 30 {
		address := g.plug(vm.Disk{ID: fmt.Sprintf("d%d", i), Path: sparseFile(t, mib)})
		if want := fmt.Sprintf("02/%02x", i+1); address.Source != want {
			t.Fatalf("disk %d at %s, want %s", i, address.Source, want)
		}
	}
	_, err := g.m.PlugDisk(t.Context(), vm.Disk{ID: "d30", Path: sparseFile(t, mib)})
	if !errors.Is(err, vm.ErrNoSlot) {
		t.Errorf("disk 31 gave %v, want ErrNoSlot", err)
	}
	mustContain(t, "disk 31", err, "30 slots", "default_bridges", "virtio-scsi")
	for i := range 30 {
		if d := g.disk(fmt.Sprintf("d%d", i), true); d.Path != fmt.Sprintf("0000:00:02.0/0000:01:%02x.0", i+1) {
			t.Errorf("disk %d at %s", i, d.Path)
		}
	}
	g.unplug("d7")
	if address := g.plug(vm.Disk{ID: "again", Path: sparseFile(t, mib)}); address.Source != "02/08" {
		t.Errorf("the free slot was not used, but %s", address.Source)
	}
	g.unplug("again")
	for i := range 30 {
		g.unplug(fmt.Sprintf("d%d", i))
	}
}

func TestTheNextBridgeTakesTheThirtyFirstDisk(t *testing.T) {
	g := newGuest(t, qemu.Config{Bridges: 2})
	if err := g.dial(); err != nil {
		t.Fatal(err)
	}
	path := sparseFile(t, mib)
	for i := range 30 {
		g.plug(vm.Disk{ID: fmt.Sprintf("d%d", i), Path: path, ReadOnly: true})
	}
	if address := g.plug(vm.Disk{ID: "d30", Path: path, ReadOnly: true}); address.Source != "03/01" {
		t.Errorf("at %s, want the first slot of the second bridge", address.Source)
	}
	if d := g.disk("d30", true); d.Path != "0000:00:03.0/0000:02:01.0" {
		t.Errorf("the guest sees it at %s", d.Path)
	}
	g.unplug("d30")
}

func TestResizeGrowsAndRefusesToShrink(t *testing.T) {
	g := sharedGuest(t)
	path := sparseFile(t, 64*mib)
	g.plug(vm.Disk{ID: "grow", Path: path})
	g.disk("grow", true)
	resize := func(size int64) error { return g.m.ResizeDisk(t.Context(), "grow", size) }
	guestHas := func(size int64) {
		t.Helper()
		deadline := time.Now().Add(patience)
		for g.disk("grow", true).Size != size {
			if time.Now().After(deadline) {
				t.Fatalf("the guest sees %d bytes, want %d", g.disk("grow", true).Size, size)
			}
		}
	}
	if err := resize(128 * mib); err != nil {
		t.Fatal(err)
	}
	guestHas(128 * mib)
	if err := resize(128 * mib); err != nil {
		t.Errorf("the same size again: %v", err)
	}
	if err := resize(64 * mib); !errors.Is(err, vm.ErrShrink) {
		t.Errorf("shrinking gave %v, want ErrShrink", err)
	}
	// The pool grows the file before it tells the machine, and may have done more of it than it is asked for now.
	if err := os.Truncate(path, 256*mib); err != nil {
		t.Fatal(err)
	}
	if err := resize(192 * mib); !errors.Is(err, vm.ErrShrink) {
		t.Errorf("cutting off what the pool added gave %v, want ErrShrink", err)
	}
	if err := resize(256 * mib); err != nil {
		t.Fatal(err)
	}
	guestHas(256 * mib)
	if err := resize(256*mib + 1); err != nil { // rounded up to a sector
		t.Fatal(err)
	}
	guestHas(256*mib + 512)
	if info, err := os.Stat(path); err != nil || info.Size() != 256*mib+512 {
		t.Errorf("the file has %d bytes, %v", info.Size(), err)
	}
	if err := g.m.ResizeDisk(t.Context(), "nobody", mib); !errors.Is(err, vm.ErrNotFound) {
		t.Errorf("resizing an unknown disk gave %v, want ErrNotFound", err)
	}
	g.unplug("grow")
}

func TestAFileIsPluggedOnlyOnce(t *testing.T) {
	g := sharedGuest(t)
	path := sparseFile(t, mib)
	g.plug(vm.Disk{ID: "first", Path: path})
	defer g.unplug("first")
	if _, err := g.m.PlugDisk(t.Context(), vm.Disk{ID: "second", Path: path}); !errors.Is(err, vm.ErrInUse) {
		t.Errorf("the same file in one machine gave %v, want ErrInUse", err)
	}
	if _, err := g.m.PlugDisk(t.Context(), vm.Disk{ID: "first", Path: sparseFile(t, mib)}); err == nil {
		t.Error("the same id twice was accepted")
	}
	other := newGuest(t, qemu.Config{}) // need not have booted to hold locks
	for _, readOnly := range []bool{false, true} {
		if _, err := other.m.PlugDisk(t.Context(), vm.Disk{ID: "third", Path: path, ReadOnly: readOnly}); !errors.Is(err, vm.ErrInUse) {
			t.Errorf("the same file in another machine, read-only %v, gave %v, want ErrInUse", readOnly, err)
		}
	}
	// Whoever was refused may try again once the file is free.
	free := sparseFile(t, mib)
	g.plug(vm.Disk{ID: "moves", Path: free})
	g.unplug("moves")
	other.plug(vm.Disk{ID: "moves", Path: free})
}

func TestReadOnlyDisksMayBeShared(t *testing.T) {
	g := sharedGuest(t)
	path := sparseFile(t, mib)
	g.plug(vm.Disk{ID: "ro1", Path: path, ReadOnly: true})
	g.plug(vm.Disk{ID: "ro2", Path: path, ReadOnly: true})
	g.unplug("ro1")
	g.unplug("ro2")
}

func TestWhatCannotBackADiskIsRefusedAndLeavesNothing(t *testing.T) {
	g := sharedGuest(t)
	dir := t.TempDir()
	fifo := filepath.Join(dir, "fifo")
	if err := unix.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		name, id, path string
		want           string
	}{
		{"missing file", "x", filepath.Join(dir, "none"), "no such file"},
		{"folder", "x", dir, "neither a block device nor a regular file"},
		{"pipe, which would block", "x", fifo, "neither a block device nor a regular file"},
		{"character device", "x", "/dev/zero", "neither a block device nor a regular file"},
		{"relative path", "x", "disk.raw", "not absolute"},
		{"empty path", "x", "", "not absolute"},
		{"empty id", "", sparseFile(t, mib), "id is"},
		{"id with a path", "../x", sparseFile(t, mib), "id is"},
		{"id longer than a serial", strings.Repeat("x", 21), sparseFile(t, mib), "id is"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			_, err := g.m.PlugDisk(t.Context(), vm.Disk{ID: tc.id, Path: tc.path})
			mustContain(t, "plug", err, tc.want)
		})
	}
	cancelled, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := g.m.PlugDisk(cancelled, vm.Disk{ID: "x", Path: sparseFile(t, mib)}); !errors.Is(err, context.Canceled) {
		t.Errorf("a cancelled plug gave %v", err)
	}
	// A symbolic link is fine, and the first slot and the id are free.
	link := filepath.Join(dir, "link")
	if err := os.Symlink(sparseFile(t, mib), link); err != nil {
		t.Fatal(err)
	}
	if address := g.plug(vm.Disk{ID: "x", Path: link}); address.Source != "02/01" {
		t.Errorf("plugged at %s: a failed plug has kept a slot", address.Source)
	}
	g.unplug("x")
}

func TestDifferentDisksMoveAtTheSameTime(t *testing.T) {
	g := sharedGuest(t)
	var workers sync.WaitGroup
	for i := range 8 {
		path := sparseFile(t, mib)
		workers.Go(func() {
			id := fmt.Sprintf("par%d", i)
			for range 3 {
				if _, err := g.m.PlugDisk(t.Context(), vm.Disk{ID: id, Path: path}); err != nil {
					t.Error(err)
					return
				}
				if err := g.m.ResizeDisk(t.Context(), id, 2*mib); err != nil {
					t.Error(err)
				}
				if err := g.m.UnplugDisk(t.Context(), id); err != nil {
					t.Error(err)
					return
				}
				if err := os.Truncate(path, mib); err != nil {
					t.Error(err)
				}
			}
		})
	}
	workers.Wait()
	if left := g.ask(request{Do: "disks"}).Disks; len(left) != 0 {
		t.Errorf("the guest still has %+v", left)
	}
}

func TestADiskLeavesAGuestThatIsStillBooting(t *testing.T) {
	g := newGuest(t, qemu.Config{})
	path := sparseFile(t, mib)
	g.plug(vm.Disk{ID: "early", Path: path})
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := g.m.UnplugDisk(ctx, "early"); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("a guest that is not there yet has let go: %v", err)
	}
	if err := g.m.ResizeDisk(t.Context(), "early", 2*mib); err != nil {
		t.Errorf("a disk whose unplugging failed is still there, but: %v", err)
	}
	for limit := time.Now().Add(patience); ; { // a slow guest still boots when one unplugging is given up
		err := g.m.UnplugDisk(t.Context(), "early")
		if err == nil {
			break
		}
		if time.Now().After(limit) {
			t.Fatal(err)
		}
	}
	if address := g.plug(vm.Disk{ID: "late", Path: path}); address.Source != "02/01" {
		t.Errorf("plugged at %s: the slot was not freed", address.Source)
	}
}

func TestDisksOnSCSI(t *testing.T) {
	g := newGuest(t, qemu.Config{BlockDriver: qemu.VirtioSCSI, KernelParams: []string{"testguest.scsi"}})
	if err := g.dial(); err != nil {
		t.Fatal(err)
	}
	path := sparseFile(t, 64*mib)
	for i, want := range []string{"0:0", "0:1"} {
		d := vm.Disk{ID: fmt.Sprintf("scsi-%d", i), Path: path, ReadOnly: i == 1}
		if i == 1 {
			d.Path = sparseFile(t, mib)
		}
		if address := g.plug(d); address != (vm.DiskAddress{Driver: "scsi", Source: want}) {
			t.Fatalf("address %v, want scsi %s", address, want)
		}
		g.ask(request{Do: "scan", Text: want})
		seen := g.disk(d.ID, true)
		// Linux shows a disk before it has looked at it for the second time, and takes it for writable while it asks.
		for limit := time.Now().Add(patience); seen.ReadOnly != d.ReadOnly && time.Now().Before(limit); seen = g.disk(d.ID, true) {
			time.Sleep(time.Millisecond)
		}
		if !strings.HasSuffix(seen.Path, ":0:"+want) || seen.ReadOnly != d.ReadOnly {
			t.Errorf("the guest sees %+v", seen)
		}
	}
	if err := g.m.ResizeDisk(t.Context(), "scsi-0", 128*mib); err != nil {
		t.Error(err)
	}
	g.unplug("scsi-0")
	g.disk("scsi-0", false)
	if address := g.plug(vm.Disk{ID: "scsi-2", Path: path}); address.Source != "0:0" {
		t.Errorf("the free address was not used, but %s", address.Source)
	}
	if info, err := os.Stat(path); err != nil || info.Size() != 128*mib {
		t.Errorf("file of %d bytes, %v", info.Size(), err)
	}
}

func TestEveryBlockEngineWorks(t *testing.T) {
	for name, config := range map[string]qemu.Config{
		"native":   {BlockAIO: "native", BlockCache: &qemu.BlockCache{}},
		"io_uring": {BlockAIO: "io_uring", BlockCache: &qemu.BlockCache{Direct: true}, IOThread: true},
		"no-flush": {BlockCache: &qemu.BlockCache{NoFlush: true}},
		"scsi": {
			BlockDriver: qemu.VirtioSCSI, BlockCache: &qemu.BlockCache{NoFlush: true}, IOThread: true,
			KernelParams: []string{"testguest.scsi"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			id := strings.ReplaceAll(name, "_", "-")
			g := newGuest(t, config)
			if err := g.dial(); err != nil {
				t.Fatal(err)
			}
			path := sparseFile(t, 2*mib)
			if address := g.plug(vm.Disk{ID: id, Path: path}); address.Driver == "scsi" {
				g.ask(request{Do: "scan", Text: address.Source})
			}
			g.disk(id, true)
			data := bytes.Repeat([]byte("12345678"), 64)
			g.ask(request{Do: "write", Serial: id, Offset: 4096, Data: data})
			host, err := os.ReadFile(path)
			if err != nil || !bytes.Equal(host[4096:4096+512], data) {
				t.Errorf("the file has not what the guest wrote: %v", err)
			}
		})
	}
}
