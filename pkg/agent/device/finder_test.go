package device

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// newFinder returns one that looks at a made-up sysfs, and listens to the real
// kernel's announcements.
func newFinder(t *testing.T, folders ...string) *Finder {
	t.Helper()
	events, err := Listen()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := events.Close(); err != nil {
			t.Error(err)
		}
	})
	f := &Finder{Events: events, Sys: t.TempDir()}
	for _, folder := range folders {
		if err := os.MkdirAll(filepath.Join(f.Sys, folder), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return f
}

func TestThingsAreFoundBelowTheirBridgeWhateverItsBusNumber(t *testing.T) {
	f := newFinder(t,
		"devices/pci0000:00/0000:00:02.0/0000:07:01.0/virtio3/block/vdc",
		"devices/pci0000:00/0000:00:02.0/0000:07:01.0/virtio3/block/vdc/queue",
		"devices/pci0000:00/0000:00:02.0/0000:07:02.0/virtio4/net/eth1",
		"devices/pci0000:00/0000:00:02.0/pci_bus/0000:07",
		"devices/pci0000:00/0000:00:01.0/virtio0/block/vda",
		"devices/pci0000:20/0000:20:00.0/0000:21:03.0/virtio9/block/vdz",
	)
	for path, want := range map[string]string{"02/01": "vdc", "01": "vda", "20/00/03": "vdz", "02/02": "", "02/1f": "", "1f/01": ""} {
		p, err := ParsePCIPath(path)
		if err != nil {
			t.Fatal(err)
		}
		dir, err := f.onPCI(p, "block")
		if err != nil || want == "" && dir != "" || want != "" && filepath.Base(dir) != want {
			t.Errorf("%s: %q, %v; want %q", path, dir, err, want)
		}
	}
	name, err := f.NetByPCIPath(t.Context(), PCIPath{Slots: []PCISlot{{2, 0}, {2, 0}}})
	if err != nil || name != "eth1" {
		t.Errorf("network card: %q, %v", name, err)
	}
}

func TestAnAmbiguousAddressIsRefused(t *testing.T) {
	f := newFinder(t,
		"devices/pci0000:00/0000:00:02.0/virtio3/block/vda", "devices/pci0000:00/0000:00:02.0/virtio4/block/vdb")
	if dir, err := f.onPCI(PCIPath{Slots: []PCISlot{{2, 0}}}, "block"); !errors.Is(err, ErrAddress) {
		t.Errorf("%q, %v; want ErrAddress", dir, err)
	}
	if _, err := f.onPCI(PCIPath{}, "block"); !errors.Is(err, ErrAddress) {
		t.Errorf("no path at all: %v, want ErrAddress", err)
	}
}

func TestAMissingDeviceTimesOut(t *testing.T) {
	f := newFinder(t)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if _, err := f.DiskByPCIPath(ctx, PCIPath{Slots: []PCISlot{{1, 0}}}); !errors.Is(err, ErrTimeout) {
		t.Errorf("%v, want ErrTimeout", err)
	}
	if _, err := f.DiskBySCSI(ctx, SCSIAddress{}); !errors.Is(err, ErrTimeout) {
		t.Errorf("%v, want ErrTimeout", err)
	}
	cancelled, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := f.DiskByNode(cancelled, "/dev/no-such-disk"); !errors.Is(err, context.Canceled) {
		t.Errorf("%v, want Canceled", err)
	}
}

func TestNodesOutsideOfDevAreRefused(t *testing.T) {
	f := newFinder(t)
	for _, node := range []string{"vda", "/etc/passwd", "/dev/../etc/passwd", "/dev/disk/by-id/x", "/dev/", "/dev"} {
		if _, err := f.DiskByNode(t.Context(), node); !errors.Is(err, ErrAddress) {
			t.Errorf("%q: %v, want ErrAddress", node, err)
		}
	}
}

func TestSCSIControllersAreAskedToLook(t *testing.T) {
	f := newFinder(t, "class/scsi_host/host0", "class/scsi_host/host1")
	for _, host := range []string{"host0", "host1"} {
		if err := os.WriteFile(filepath.Join(f.Sys, "class/scsi_host", host, "scan"), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	f.scanSCSI(SCSIAddress{ID: 3, LUN: 300})
	for _, host := range []string{"host0", "host1"} {
		got, err := os.ReadFile(filepath.Join(f.Sys, "class/scsi_host", host, "scan"))
		if err != nil || string(got) != "0 3 300" {
			t.Errorf("%s was told %q, %v", host, got, err)
		}
	}
}

func TestASCSIDiskIsLookedAtAgainBeforeItSaysWhetherItIsReadOnly(t *testing.T) {
	disk := Disk{dir: t.TempDir()}
	rescan := filepath.Join(disk.dir, "device/rescan")
	if err := errors.Join(os.Mkdir(filepath.Dir(rescan), 0o755), os.WriteFile(rescan, nil, 0o600),
		os.WriteFile(filepath.Join(disk.dir, "ro"), []byte("1\n"), 0o600)); err != nil {
		t.Fatal(err)
	}
	if readOnly, err := disk.ReadOnly(); err != nil || !readOnly {
		t.Errorf("%v, %v", readOnly, err)
	}
	if told, err := os.ReadFile(rescan); err != nil || string(told) != "1" {
		t.Errorf("the kernel was told %q, %v", told, err)
	}
}

// A loop device stands in for a disk: it is found by its node, has a size, and
// grows while somebody waits for that.
func TestARealDiskIsFoundAndWaitedFor(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Fatal("loop devices need root: run the tests as root")
	}
	image := filepath.Join(t.TempDir(), "disk.img")
	if err := os.WriteFile(image, make([]byte, 1<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command("losetup", "--find", "--show", image).Output()
	if err != nil {
		t.Fatal(err)
	}
	node := strings.TrimSpace(string(out))
	detached := false
	detach := func() {
		if !detached {
			detached = true
			if out, err := exec.Command("losetup", "--detach", node).CombinedOutput(); err != nil {
				t.Errorf("%v: %s", err, out)
			}
		}
	}
	defer detach()
	f := newFinder(t)
	f.Sys = ""
	disk, err := f.DiskByNode(t.Context(), node)
	if err != nil {
		t.Fatal(err)
	}
	if size, err := disk.SizeBytes(); err != nil || size != 1<<20 || disk.Major != 7 || disk.Node != node {
		t.Errorf("%+v of %d bytes, %v", disk, size, err)
	}
	short, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if _, err := disk.WaitForSize(short, 2<<20); !errors.Is(err, ErrTimeout) || !strings.Contains(err.Error(), "1048576 bytes") {
		t.Errorf("%v, want ErrTimeout and the size", err)
	}

	grown := make(chan error, 1)
	go func() {
		size, err := disk.WaitForSize(t.Context(), 2<<20)
		if err == nil && size != 2<<20 {
			err = errors.New("wrong size")
		}
		grown <- err
	}()
	if err := os.Truncate(image, 2<<20); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("losetup", "--set-capacity", node).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	select {
	case err := <-grown:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(10 * time.Second):
		t.Error("the new size was not noticed")
	}
	gone := Disk{Node: "/dev/x", dir: filepath.Join(t.TempDir(), "gone"), events: f.Events}
	if _, err := gone.SizeBytes(); !errors.Is(err, ErrGone) {
		t.Errorf("%v, want ErrGone", err)
	}
}
