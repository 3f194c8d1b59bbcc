package volume

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/katadirect/katadirect/pkg/directvolume"
	"github.com/katadirect/katadirect/pkg/runtime/vm"
)

// loop makes a block device of an image file.
func (h *host) loop(name string) (device string) {
	h.t.Helper()
	image := h.device(name)
	if err := os.WriteFile(image, make([]byte, 1<<20), 0o600); err != nil {
		h.t.Fatal(err)
	}
	out, err := exec.Command("losetup", "--find", "--show", image).Output()
	if err != nil {
		h.t.Fatal(err)
	}
	device = strings.TrimSpace(string(out))
	h.t.Cleanup(func() { _ = exec.Command("losetup", "--detach", device).Run() })
	return device
}

// rawRecord records a raw block volume.
func (h *host) rawRecord(name, device string) (path string) {
	h.t.Helper()
	path = h.folder("target/" + name)
	err := h.records.Add(h.t.Context(), path, directvolume.Record{VolumeType: directvolume.VolumeTypeBlock, Device: device})
	if err != nil {
		h.t.Fatal(err)
	}
	return path
}

func TestARawDeviceIsPluggedOnceAndStaysForThePod(t *testing.T) {
	h := newHost(t)
	device := h.loop("v")
	for _, c := range []string{"c1", "c2"} {
		at, err := h.set.AttachRaw(t.Context(), c, device, false)
		if err != nil || at.Source != "02/01" {
			t.Errorf("%+v, %v", at, err)
		}
	}
	h.set.Expose("c1")
	h.detach("c1")
	h.detach("c2")
	if len(h.machine.plugged) != 1 || h.machine.plugs != 1 {
		t.Errorf("plugged in %v, %d times", h.machine.plugged, h.machine.plugs)
	}
	if stats, err := h.set.Stats(t.Context(), device); err != nil || len(stats.Usage) != 1 || stats.Usage[0].Total != 1<<20 || len(h.guest.asked) != 0 {
		t.Errorf("stats %+v, %v; the guest was asked for %q", stats, err, h.guest.asked)
	}
	if err := errors.Join(os.Truncate(h.device("v"), 2<<20), h.set.Resize(t.Context(), device, 2<<20)); err != nil || len(h.guest.resized) != 0 {
		t.Errorf("resize: %v; the agent was told %v", err, h.guest.resized)
	}
	if size, err := sizeOf(device); err != nil || size != 2<<20 {
		t.Errorf("the loop device has %d bytes, %v: it does not know of its file's growth by itself", size, err)
	}
	if _, err := h.set.Freeze(t.Context(), device, 0); !errors.Is(err, ErrCannotFreeze) && !errors.Is(err, ErrOtherUse) {
		t.Errorf("freeze: %v", err)
	}
}

func TestARawDeviceThatTheGuestNeverSawGoesAtOnce(t *testing.T) {
	h := newHost(t)
	if _, err := h.set.AttachRaw(t.Context(), "c1", h.loop("v"), false); err != nil {
		t.Fatal(err)
	}
	h.detach("c1")
	if len(h.machine.plugged) != 0 {
		t.Errorf("plugged in %v", h.machine.plugged)
	}
}

func TestTheRecordOfARawVolumeIsClaimedAndReleased(t *testing.T) {
	h := newHost(t)
	device := h.loop("v")
	path := h.rawRecord("v", device)
	if _, err := h.set.AttachRaw(t.Context(), "c1", device, false); err != nil {
		t.Fatal(err)
	}
	h.state(path, 1, true)
	h.set.Expose("c1")
	h.detach("c1")
	h.state(path, 1, true) // the pod may come back to it
	if err := os.RemoveAll(h.dir + "/records"); err != nil {
		t.Fatal(err)
	}
	h.detach("c1")
	h.state(path, 0, false)
}

func TestADeviceIsNeverUsedInTwoWays(t *testing.T) {
	h := newHost(t)
	device := h.loop("v")
	mount := h.record("w", func(r *directvolume.Record) { r.Device = device })
	if _, err := h.set.AttachRaw(t.Context(), "c1", device, false); !errors.Is(err, ErrOtherUse) || !strings.Contains(err.Error(), mount) {
		t.Errorf("raw, while it is recorded to be mounted: %v", err)
	}
	if err := h.records.Remove(t.Context(), mount); err != nil {
		t.Fatal(err)
	}
	// By its file it is the same.
	byFile := h.folder("target/file")
	if err := h.records.Add(t.Context(), byFile, directvolume.Record{Device: h.device("v"), FSType: "ext4"}); err != nil {
		t.Fatal(err)
	}
	for name, err := range map[string]error{
		"raw": func() error { _, err := h.set.AttachRaw(t.Context(), "c1", device, false); return err }(),
		"as root": func() error {
			_, err := h.set.AttachRootfs(t.Context(), "c1", Rootfs{Device: device, FSType: "ext4"})
			return err
		}(),
	} {
		if !errors.Is(err, ErrOtherUse) {
			t.Errorf("%s, while its file is recorded: %v", name, err)
		}
	}
	if err := h.records.Remove(t.Context(), byFile); err != nil {
		t.Fatal(err)
	}
	if _, err := h.set.AttachRaw(t.Context(), "c1", device, false); err != nil {
		t.Fatal(err)
	}
	mount = h.record("x", func(r *directvolume.Record) { r.Device = device })
	if _, err := h.set.Attach(t.Context(), "c2", mount); !errors.Is(err, ErrOtherUse) {
		t.Errorf("mounted, while it is a raw device: %v", err)
	}
	h.state(mount, 1, false)
	if _, err := h.set.Attach(t.Context(), "c2", h.rawRecord("y", h.loop("y"))); !errors.Is(err, ErrUnsupported) {
		t.Errorf("mounted, while it is recorded to be raw: %v", err)
	}
}

func TestARawVolumeOfAnotherSandboxIsRefused(t *testing.T) {
	h := newHost(t)
	device := h.loop("v")
	path := h.rawRecord("v", device)
	h.live("s2")
	if _, err := h.records.Claim(t.Context(), path, "s2"); err != nil {
		t.Fatal(err)
	}
	if _, err := h.set.AttachRaw(t.Context(), "c1", device, false); !errors.Is(err, directvolume.ErrClaimed) {
		t.Errorf("error %v", err)
	}
	h.state(path, 0, false)
}

// QEMU locks the file and the host locks the loop device: neither sees the other.
func TestAFileThatTheHostHasThroughALoopDeviceIsRefused(t *testing.T) {
	h := newHost(t)
	path := h.record("v", nil)
	device := h.loop("v")
	held, err := os.OpenFile(device, os.O_RDONLY|unix.O_EXCL, 0) // as a mount does
	if err != nil {
		t.Fatal(err)
	}
	if _, err := h.set.Attach(t.Context(), "c1", path); !errors.Is(err, vm.ErrInUse) || !strings.Contains(err.Error(), device) {
		t.Errorf("mounted on the host: %v", err)
	}
	h.state(path, 0, false)
	if err := held.Close(); err != nil {
		t.Fatal(err)
	}
	h.attach("c1", path) // a loop device that nobody uses does no harm
}

func TestARootFileSystemGoesWithItsContainer(t *testing.T) {
	h := newHost(t)
	device := h.loop("v")
	storage, err := h.set.AttachRootfs(t.Context(), "c1", Rootfs{
		Device: device, FSType: "xfs", Options: []string{"loop", "noatime,ro", "X-mkdir"}, GuestPath: "/guest/c1"})
	if err != nil || storage.GetMountPoint() != "/guest/c1" || storage.GetFstype() != "xfs" || len(storage.GetDriverOptions()) != 0 ||
		!slices.Equal(storage.GetOptions(), []string{"noatime", "ro", "nouuid"}) {
		t.Errorf("%v, %v", storage, err)
	}
	for _, d := range h.machine.plugged {
		if !d.ReadOnly {
			t.Errorf("plugged in %+v", d)
		}
	}
	if err := h.set.Resize(t.Context(), device, 1<<30); !errors.Is(err, ErrUnknown) {
		t.Errorf("resize: %v", err)
	}
	h.set.Expose("c1")
	h.detach("c1")
	if len(h.machine.plugged) != 0 {
		t.Errorf("plugged in %v", h.machine.plugged)
	}
}

func TestBlockDevicesAreFoundByTheirNumber(t *testing.T) {
	h := newHost(t)
	device := h.loop("v")
	var stat unix.Stat_t
	if err := unix.Stat(device, &stat); err != nil {
		t.Fatal(err)
	}
	if got, err := HostDevice(int64(unix.Major(stat.Rdev)), int64(unix.Minor(stat.Rdev))); got != device || err != nil {
		t.Errorf("%s, %v; want %s", got, err, device)
	}
	for _, number := range [][2]int64{{4095, 0}, {-1, -1}, {1, 3}} { // 1:3 is /dev/null as a character device
		if got, err := HostDevice(number[0], number[1]); !errors.Is(err, directvolume.ErrDevice) && !strings.HasPrefix(got, "/dev/ram") {
			t.Errorf("%d: %q, %v", number, got, err)
		}
	}
}

func TestAnEmptyDirsDiskBecomesTheAgentsStorage(t *testing.T) {
	h := newHost(t)
	dir := h.folder("cache")
	h.folder("cache/subpath") // as kubelet makes them
	if err := errors.Join(os.Chmod(dir, os.ModeSetgid|0o777), os.Chown(dir, -1, 3000), os.WriteFile(dir+"/disk.img", []byte("old"), 0o600)); err != nil {
		t.Fatal(err)
	}
	if err := h.set.MakeEphemeral(t.Context(), dir); !errors.Is(err, ErrNotEmpty) {
		t.Errorf("with a file of the pod's in it: %v", err)
	}
	if err := RemoveEphemeral(t.Context(), h.records, dir); err != nil {
		t.Error(err)
	}
	if data, err := os.ReadFile(dir + "/disk.img"); err != nil || string(data) != "old" {
		t.Errorf("the pod's file is %q, %v", data, err)
	}
	if err := unix.Setxattr(dir+"/disk.img", imageMark, []byte("1"), 0); err != nil { // what an earlier sandbox left
		t.Fatal(err)
	}
	if err := h.set.MakeEphemeral(t.Context(), dir); err != nil {
		t.Fatal(err)
	}
	use := h.attach("c1", dir)
	st := use.Storages[0]
	if !st.GetShared() || !slices.Equal(st.GetDriverOptions(), []string{"create_filesystem", "katadirect.io/root-mode=2777"}) ||
		!slices.Equal(st.GetOptions(), []string{"discard"}) || st.GetFsGroup().GetGroupId() != 3000 || st.GetFstype() != "ext4" {
		t.Errorf("storage %v", st)
	}
	if f, err := os.Open(dir + "/disk.img"); err != nil {
		t.Error(err)
	} else if got := make([]byte, 3); !readsZeros(f, got) {
		t.Error("what an earlier sandbox left was taken over")
	}
	if err := RemoveEphemeral(t.Context(), h.records, dir); !errors.Is(err, directvolume.ErrClaimed) {
		t.Errorf("removing it in use: %v", err)
	}
	h.set.Expose("c1")
	h.detach("c1")
	h.state(dir, 1, true)
	if err := errors.Join(h.set.Release(t.Context()), RemoveEphemeral(t.Context(), h.records, dir), RemoveEphemeral(t.Context(), h.records, dir)); err != nil {
		t.Error(err)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) != 1 || left[0].Name() != "subpath" {
		t.Errorf("left: %v, %v", left, err)
	}
}

func readsZeros(f *os.File, into []byte) bool {
	defer f.Close()
	n, err := f.ReadAt(into, 0)
	return err == nil && n == len(into) && !slices.ContainsFunc(into, func(b byte) bool { return b != 0 })
}

func TestARawDeviceThatIsToBeReadOnlyIsSoInTheMachine(t *testing.T) {
	h := newHost(t)
	device := h.loop("v")
	if _, err := h.set.AttachRaw(t.Context(), "c1", device, true); err != nil {
		t.Fatal(err)
	}
	if infos := h.set.List(); len(infos) != 1 || !infos[0].ReadOnly {
		t.Errorf("plugged in %+v", infos)
	}
	if _, err := h.set.AttachRaw(t.Context(), "c2", device, false); !errors.Is(err, ErrReadOnly) {
		t.Errorf("to be written by another container: %v", err)
	}
}

func TestARawVolumeIsFoundByTheFileOfItsLoopDevice(t *testing.T) {
	h := newHost(t)
	device := h.loop("v")
	path := h.rawRecord("v", h.device("v"))
	if _, err := h.set.AttachRaw(t.Context(), "c1", device, false); err != nil {
		t.Fatal(err)
	}
	h.state(path, 1, true)
	stats, err := h.set.Stats(t.Context(), h.device("v"))
	if err != nil || len(stats.Usage) != 1 || stats.Usage[0].Total != 1<<20 {
		t.Errorf("%+v, %v", stats, err)
	}
	if _, err := h.set.Stats(t.Context(), h.loop("other")); !errors.Is(err, ErrUnknown) {
		t.Errorf("of another device: %v", err)
	}
}

func TestALoopDeviceWhoseFileAMachineHasIsRefused(t *testing.T) {
	h := newHost(t)
	device := h.loop("v")
	file, err := os.OpenFile(h.device("v"), os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	lock := unix.Flock_t{Type: unix.F_RDLCK, Start: 101, Len: 1} // as QEMU's, for writing
	if err := unix.FcntlFlock(file.Fd(), unix.F_OFD_SETLK, &lock); err != nil {
		t.Fatal(err)
	}
	if _, err := h.set.AttachRaw(t.Context(), "c1", device, false); !errors.Is(err, vm.ErrInUse) {
		t.Errorf("raw: %v", err)
	}
	path := h.record("w", func(r *directvolume.Record) { r.Device = device })
	if _, err := h.set.Attach(t.Context(), "c1", path); !errors.Is(err, vm.ErrInUse) {
		t.Errorf("mounted: %v", err)
	}
	h.state(path, 0, false)
	if err := file.Close(); err != nil {
		t.Fatal(err)
	}
	h.attach("c1", path)
}

func TestOnlyFoldersDoNotMakeAnEmptyDirAUsedOne(t *testing.T) {
	h := newHost(t)
	dir := h.folder("cache")
	for i := range 500 {
		h.folder(fmt.Sprintf("cache/%d/part", i))
	}
	if err := checkNoFiles(dir); err != nil {
		t.Errorf("%d folders: %v", maxFolders, err)
	}
	h.folder("cache/0/part/more")
	if err := checkNoFiles(dir); !errors.Is(err, ErrNotEmpty) {
		t.Errorf("one more: %v", err)
	}
	dir = h.folder("deep")
	if err := errors.Join(os.MkdirAll(dir+"/a/b", 0o755), os.WriteFile(dir+"/a/b/file", nil, 0o600)); err != nil {
		t.Fatal(err)
	}
	if err := checkNoFiles(dir); !errors.Is(err, ErrNotEmpty) || !strings.Contains(err.Error(), "a/b/file") {
		t.Errorf("a file in them: %v", err)
	}
}
