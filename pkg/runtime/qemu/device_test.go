package qemu_test

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/katadirect/katadirect/pkg/runtime/qemu"
	"github.com/katadirect/katadirect/pkg/runtime/vm"
)

// loopDevice attaches path to a loop device.
func loopDevice(t *testing.T, path string) string {
	t.Helper()
	out, err := exec.Command("losetup", "--find", "--show", path).CombinedOutput()
	if err != nil {
		t.Fatalf("losetup: %v: %s", err, out)
	}
	device := strings.TrimSpace(string(out))
	t.Cleanup(func() {
		if out, err := exec.Command("losetup", "--detach", device).CombinedOutput(); err != nil {
			t.Errorf("losetup --detach %s: %v: %s", device, err, out)
		}
	})
	return device
}

func TestABlockDeviceBelongsToTheMachineAlone(t *testing.T) {
	g := sharedGuest(t)
	path := sparseFile(t, 32*mib)
	device := loopDevice(t, path)
	if out, err := exec.Command("mkfs.ext4", "-q", device).CombinedOutput(); err != nil {
		t.Fatalf("mkfs: %v: %s", err, out)
	}
	mountPoint := t.TempDir()
	if err := unix.Mount(device, mountPoint, "ext4", 0, ""); err != nil {
		t.Fatal(err)
	}
	_, err := g.m.PlugDisk(t.Context(), vm.Disk{ID: "loop", Path: device})
	if !errors.Is(err, vm.ErrInUse) {
		t.Errorf("a mounted device gave %v, want ErrInUse", err)
	}
	if err := unix.Unmount(mountPoint, 0); err != nil {
		t.Fatal(err)
	}
	g.plug(vm.Disk{ID: "loop", Path: device})
	if err := unix.Mount(device, mountPoint, "ext4", 0, ""); !errors.Is(err, syscall.EBUSY) {
		t.Errorf("mounting what the machine has gave %v, want EBUSY", err)
	}
	if err := g.m.ResizeDisk(t.Context(), "loop", 64*mib); err == nil {
		t.Error("a device that has not grown was resized")
	}
	if err := os.Truncate(path, 64*mib); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("losetup", "--set-capacity", device).CombinedOutput(); err != nil {
		t.Fatalf("losetup: %v: %s", err, out)
	}
	if err := g.m.ResizeDisk(t.Context(), "loop", 64*mib); err != nil {
		t.Error(err)
	}
	if err := g.m.ResizeDisk(t.Context(), "loop", 48*mib); !errors.Is(err, vm.ErrShrink) {
		t.Errorf("shrinking gave %v, want ErrShrink", err)
	}
	g.unplug("loop")
	if err := unix.Mount(device, mountPoint, "ext4", 0, ""); err != nil {
		t.Errorf("after the unplug the device is still held: %v", err)
	} else if err := unix.Unmount(mountPoint, 0); err != nil {
		t.Error(err)
	}
}

func TestWithoutSpaceTheMachineWaitsAndLosesNothing(t *testing.T) {
	events := make(chan qemu.Event, 16)
	g := newGuest(t, qemu.Config{OnEvent: func(e qemu.Event) { events <- e }})
	small := t.TempDir()
	if err := unix.Mount("tmpfs", small, "tmpfs", 0, "size=8m"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(small, 0); err != nil {
			t.Error(err)
		}
	})
	path := filepath.Join(small, "disk.raw")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(path, 32*mib); err != nil {
		t.Fatal(err)
	}
	if err := g.dial(); err != nil {
		t.Fatal(err)
	}
	g.plug(vm.Disk{ID: "full", Path: path})
	g.disk("full", true)
	filled := make(chan error, 1)
	go func() {
		a, err := g.try(request{Do: "fill", Serial: "full"})
		if err == nil && a.Size != 32*mib {
			err = fmt.Errorf("%d bytes written", a.Size)
		}
		filled <- err
	}()
	expect := func(kind qemu.EventKind) {
		t.Helper()
		select {
		case e := <-events:
			if e.Kind != kind || e.DiskID != "full" {
				t.Fatalf("event %+v, want %s of disk full", e, kind)
			}
		case err := <-filled:
			t.Fatalf("the guest was answered meanwhile: %v", err)
		case <-time.After(patience):
			t.Fatalf("no event %s", kind)
		}
	}
	expect(qemu.EventStoppedNoSpace)
	if err := unix.Mount("tmpfs", small, "tmpfs", unix.MS_REMOUNT, "size=64m"); err != nil {
		t.Fatal(err)
	}
	if err := <-filled; err != nil {
		t.Errorf("the guest got %v for writes that had to wait", err)
	}
	expect(qemu.EventResumed)
	content, err := os.ReadFile(path)
	if want := bytes.Repeat([]byte{0xff}, 32*mib); err != nil || !bytes.Equal(content, want) {
		t.Errorf("the file is not what the guest wrote, %v", err)
	}
	// Before the file system goes, so that it can.
	g.hangUp()
	if err := g.stopAndLook(); err != nil {
		t.Error(err)
	}
}

func TestAnErrorOfTheHostsDeviceReachesTheGuestAndIsReported(t *testing.T) {
	events := make(chan qemu.Event, 16)
	g := newGuest(t, qemu.Config{OnEvent: func(e qemu.Event) { events <- e }})
	path := sparseFile(t, 32*mib)
	device := loopDevice(t, path)
	t.Cleanup(func() { _ = g.stopAndLook() }) // before the device goes
	if err := g.dial(); err != nil {
		t.Fatal(err)
	}
	g.plug(vm.Disk{ID: "bad", Path: device})
	g.disk("bad", true)
	if err := os.Truncate(path, 16*mib); err != nil { // what lies behind it fails from now on
		t.Fatal(err)
	}
	if _, err := g.try(request{Do: "read", Serial: "bad", Offset: 24 * mib, Data: make([]byte, 4096)}); err == nil {
		t.Error("the guest read what is not there")
	}
	select {
	case e := <-events:
		if e.Kind != qemu.EventDiskError || e.DiskID != "bad" || !strings.Contains(e.Message, "read") {
			t.Errorf("event %+v", e)
		}
	case <-time.After(patience):
		t.Error("no event")
	}
}
