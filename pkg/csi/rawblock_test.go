package csi

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"

	"github.com/katadirect/katadirect/pkg/csi/loop"
	"github.com/katadirect/katadirect/pkg/directvolume"
)

// newBlockHost is a host whose loop devices and mounts are gone when the test is over.
func newBlockHost(t *testing.T) *host {
	t.Helper()
	h := newHost(t)
	t.Cleanup(func() {
		h.stop()
		_ = filepath.WalkDir(h.path("pods"), func(path string, entry fs.DirEntry, err error) error {
			if err == nil && !entry.IsDir() {
				_ = removeDevice(path)
			}
			return nil
		})
		h.sweepLoops()
	})
	return h
}

// sweepLoops takes away the loop devices that a test has left. Who still looks at a volume keeps its device, for a moment.
func (h *host) sweepLoops() {
	h.t.Helper()
	for _, device := range h.loopDevices() {
		h.t.Logf("the test leaves %s", device)
	}
	eventually(h.t, "the loop devices that the test has left go", func() bool {
		_ = loop.New(h.path("pool"), nil).Sweep(context.Background(), func(string) bool { return false })
		return len(h.loopDevices()) == 0
	})
}

// loopDevices are those over images of the host's pool, found by somebody else: the kernel's own list.
func (h *host) loopDevices() []string {
	h.t.Helper()
	files, err := filepath.Glob("/sys/block/loop*/loop/backing_file")
	must(h.t, err)
	var devices []string
	for _, file := range files {
		if data, err := os.ReadFile(file); err == nil && strings.HasPrefix(string(data), h.path("pool")+"/") {
			devices = append(devices, "/dev/"+strings.Split(file, "/")[3])
		}
	}
	return devices
}

func deviceNumber(t *testing.T, path string) uint64 {
	t.Helper()
	var stat unix.Stat_t
	must(t, unix.Lstat(path, &stat))
	if stat.Mode&unix.S_IFMT != unix.S_IFBLK {
		t.Fatalf("%s is no block device", path)
	}
	return stat.Rdev
}

func TestARawBlockVolumeIsADeviceAtTheTargetPath(t *testing.T) {
	h := newBlockHost(t)
	v, target := h.create("pvc", asBlock), h.target("pod")
	must(t, v.stage())
	must(t, v.stage())
	devices := h.loopDevices()
	if len(devices) != 1 {
		t.Fatalf("staged it has %v", devices)
	}
	must(t, v.publish(target))
	must(t, v.publish(target)) // kubelet does, after it was restarted
	if got := deviceNumber(t, target); got != deviceNumber(t, devices[0]) {
		t.Errorf("the target path is device %x, not %s", got, devices[0])
	}
	record, err := h.store().Get(t.Context(), target)
	if err != nil || record.VolumeType != directvolume.VolumeTypeBlock || record.FSType != "" ||
		record.Device != v.image() || len(record.Options) != 0 || record.Metadata[directvolume.MetadataVolumeID] != v.id {
		t.Errorf("the record is %+v, %v", record, err)
	}
	writeFile(t, target, strings.Repeat("content!", 512))
	node, err := os.Open(target)
	must(t, err)
	must(t, errors.Join(node.Sync(), node.Close()))
	if got := readFile(t, v.image(), 8); got != "content!" {
		t.Errorf("the image holds %q", got)
	}

	refused(t, v.unstage(), codes.FailedPrecondition, target)
	refused(t, v.delete(), codes.FailedPrecondition)
	for range 2 {
		must(t, v.unpublish(target))
	}
	if _, err := os.Lstat(target); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the target path after unpublishing: %v", err)
	}
	for range 2 {
		must(t, v.unstage())
	}
	if left := h.loopDevices(); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
	must(t, v.stage())
	must(t, v.publish(target))
	if got := readFile(t, target, 8); got != "content!" {
		t.Errorf("staged again it holds %q", got)
	}
	must(t, v.unpublish(target))
	must(t, v.unstage())
	must(t, v.delete())
}

func TestAVolumeIsUsedAsTheKindItWasMade(t *testing.T) {
	h := newBlockHost(t)
	raw, mounted := h.create("raw", asBlock), h.create("mounted")
	for _, other := range []struct {
		v      volume
		change func(*csi.VolumeCapability)
		word   string
	}{
		{raw, func(c *csi.VolumeCapability) { *c = *capability() }, "raw block"},
		{raw, func(c *csi.VolumeCapability) { *c = *capability(withFS("")) }, "raw block"},
		{mounted, asBlock, "ext4"},
	} {
		c := capability(other.change)
		create := createRequest(map[string]string{raw.id: "raw", mounted.id: "mounted"}[other.v.id], gib, other.change)
		_, err := h.CreateVolume(t.Context(), create)
		refused(t, err, codes.AlreadyExists)
		validated, err := h.ValidateVolumeCapabilities(t.Context(), &csi.ValidateVolumeCapabilitiesRequest{
			VolumeId: other.v.id, VolumeCapabilities: []*csi.VolumeCapability{c},
		})
		if err != nil || validated.GetConfirmed() != nil {
			t.Errorf("%s: validated %v, %v", other.word, validated, err)
		}
		_, err = h.NodeStageVolume(t.Context(), &csi.NodeStageVolumeRequest{
			VolumeId: other.v.id, StagingTargetPath: h.staging(other.v.id), VolumeCapability: c,
		})
		refused(t, err, codes.FailedPrecondition, other.word)
	}
	validated, err := h.ValidateVolumeCapabilities(t.Context(), &csi.ValidateVolumeCapabilitiesRequest{
		VolumeId: raw.id, VolumeCapabilities: []*csi.VolumeCapability{capability(asBlock)},
	})
	if err != nil || validated.GetConfirmed() == nil {
		t.Errorf("its own kind: %v, %v", validated, err)
	}
	both := createRequest("both", gib)
	both.VolumeCapabilities = append(both.VolumeCapabilities, capability(asBlock))
	_, err = h.CreateVolume(t.Context(), both)
	refused(t, err, codes.InvalidArgument, "one of them")
	shared := createRequest("shared", gib, asBlock, withMode(csi.VolumeCapability_AccessMode_MULTI_NODE_MULTI_WRITER))
	_, err = h.CreateVolume(t.Context(), shared)
	refused(t, err, codes.InvalidArgument, "MULTI_NODE_MULTI_WRITER")
	if left := h.loopDevices(); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
}

func TestAReadOnlyRawBlockVolumeCannotBeWritten(t *testing.T) {
	h := newBlockHost(t)
	try := func(path string) error {
		node, err := os.OpenFile(path, os.O_RDWR, 0)
		if err != nil {
			return err
		}
		_, err = node.WriteAt(make([]byte, 4096), 0)
		return errors.Join(err, node.Sync(), node.Close())
	}
	// A pod that asks for it so, and the next one that does not.
	v, target := h.create("pvc", asBlock), h.target("pod")
	must(t, v.stage())
	request := v.publishRequest(target)
	request.Readonly = true
	_, err := h.NodePublishVolume(t.Context(), request)
	must(t, err)
	if err := try(target); !errors.Is(err, unix.EPERM) {
		t.Errorf("written to: %v", err)
	}
	if record, err := h.store().Get(t.Context(), target); err != nil || !record.ReadOnly() {
		t.Errorf("the record is %+v, %v", record, err)
	}
	refused(t, v.publish(target), codes.AlreadyExists)
	if err := try(target); !errors.Is(err, unix.EPERM) {
		t.Errorf("written to after a publish that was refused: %v", err)
	}
	must(t, v.unpublish(target))
	must(t, v.publish(target))
	must(t, try(target))
	must(t, v.unpublish(target))
	must(t, v.unstage())
	// A claim that says so.
	reader := h.create("reader", asBlock, withMode(csi.VolumeCapability_AccessMode_SINGLE_NODE_READER_ONLY))
	must(t, reader.stage())
	must(t, reader.publish(target))
	if err := try(target); !errors.Is(err, unix.EPERM) && !errors.Is(err, unix.EACCES) {
		t.Errorf("written to: %v", err)
	}
	must(t, reader.unpublish(target))
	must(t, reader.unstage())
}

func TestARawBlockVolumeGrowsInUse(t *testing.T) {
	h := newBlockHost(t)
	v, target := h.published("pvc", asBlock)
	// As kubelet names it: by the target path, by the folder it was staged at, or through a link to the node.
	link := h.path("link")
	must(t, os.Symlink(target, link))
	for i, path := range []string{target, h.staging(v.id), link} {
		sizeBytes := int64(i+2) * gib
		if got, err := v.expand(t.Context(), path, sizeBytes); err != nil || got != sizeBytes {
			t.Errorf("by %s: %d, %v", path, got, err)
		}
		node, err := os.Open(target)
		must(t, err)
		if size, err := node.Seek(0, 2); err != nil || size != sizeBytes || node.Close() != nil {
			t.Errorf("the device has %d bytes, %v; want %d", size, err, sizeBytes)
		}
		record, err := h.store().Get(t.Context(), target)
		if err != nil || record.Metadata[directvolume.MetadataSizeBytes] != fmt.Sprint(sizeBytes) {
			t.Errorf("the record is %+v, %v", record, err)
		}
	}
	s := h.runShim("sandbox1", nil)
	s.claim(target)
	_, err := v.expand(t.Context(), target, 5*gib)
	must(t, err)
	want := []directvolume.ResizeRequest{{VolumePath: v.image(), Size: uint64(5 * gib)}}
	if asked := s.asked(); !slices.Equal(asked, want) {
		t.Errorf("the machine was asked for %v, want %v", asked, want)
	}
	s.die()
	must(t, v.unpublish(target))
	must(t, v.unstage())
}

func TestAnotherPodDoesNotGetARawBlockVolume(t *testing.T) {
	h := newBlockHost(t)
	v, target := h.published("pvc", asBlock, withMode(csi.VolumeCapability_AccessMode_SINGLE_NODE_MULTI_WRITER))
	second := h.target("second")
	refused(t, v.publish(second), codes.FailedPrecondition, target, "one pod at a time")
	if _, err := os.Lstat(second); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the refused publish has made something: %v", err)
	}
	must(t, v.unpublish(target))
	must(t, v.publish(second))
	must(t, v.unpublish(second))
	must(t, v.unstage())
}

// What a publish that was cut short, a reboot or a stranger leaves at the target path.
func TestTheTargetPathOfARawBlockVolumeIsMadeGood(t *testing.T) {
	h := newBlockHost(t)
	v, target := h.create("pvc", asBlock), h.target("pod")
	must(t, v.stage())
	device := h.loopDevices()[0]
	other, err := loop.New(h.path("pool"), nil).Attach(t.Context(), h.create("other", asBlock).image(), false)
	must(t, err)
	bindOver := func(node string) func(string) error {
		return func(path string) error {
			return errors.Join(os.WriteFile(path, nil, 0o600), unix.Mount(node, path, "", unix.MS_BIND, ""))
		}
	}
	for name, test := range map[string]struct {
		leave func(path string) error
		word  string // of the refusal; "" if the publish goes well
	}{
		"an empty file":         {func(path string) error { return os.WriteFile(path, nil, 0o600) }, ""},
		"the node already":      {bindOver(device), ""},
		"a node of another":     {bindOver(other.Path), ""},
		"a file with something": {func(path string) error { return os.WriteFile(path, []byte("data"), 0o600) }, "leaves it"},
		"a folder":              {func(path string) error { return os.Mkdir(path, 0o700) }, "leaves it"},
		"a link":                {func(path string) error { return os.Symlink(device, path) }, "leaves it"},
		"another kind of mount": {bindOver("/dev/null"), "leaves it"},
		"a device that is no mount": {func(path string) error {
			return unix.Mknod(path, unix.S_IFBLK|0o600, int(deviceNumber(t, device)))
		}, "leaves it"},
	} {
		t.Run(name, func(t *testing.T) {
			must(t, test.leave(target))
			before, err := os.Lstat(target)
			must(t, err)
			err = v.publish(target)
			if test.word != "" {
				refused(t, err, codes.FailedPrecondition, test.word)
				if after, err := os.Lstat(target); err != nil || after.Mode() != before.Mode() {
					t.Errorf("it became %v, %v", after, err)
				}
				_ = unix.Unmount(target, unix.UMOUNT_NOFOLLOW)
				must(t, os.Remove(target))
				return
			}
			must(t, err)
			if deviceNumber(t, target) != deviceNumber(t, device) {
				t.Error("it is another device")
			}
			must(t, v.unpublish(target))
			if _, err := os.Lstat(target); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("left: %v", err)
			}
		})
	}
	must(t, v.unstage())
}

func TestTheDeviceOfARawBlockVolumeSurvivesTheDriver(t *testing.T) {
	h := newBlockHost(t)
	v, target := h.published("pvc", asBlock)
	device := h.loopDevices()
	// Of a volume that was being staged when the driver was killed.
	half := h.create("half", asBlock)
	_, err := loop.New(h.path("pool"), nil).Attach(t.Context(), half.image(), false)
	must(t, err)
	h.restart()
	if left := h.loopDevices(); !slices.Equal(left, device) {
		t.Errorf("after a restart there are %v, not %v", left, device)
	}
	must(t, v.publish(target))
	_, err = v.expand(t.Context(), target, 2*gib)
	must(t, err)
	must(t, v.unpublish(target))
	must(t, v.unstage())
	if left := h.loopDevices(); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
}

// As losetup -D does to all that nobody has open.
func TestADeviceThatWasTakenAwayIsMadeAgainForTheNextPod(t *testing.T) {
	for name, mode := range map[string]csi.VolumeCapability_AccessMode_Mode{
		"to write": csi.VolumeCapability_AccessMode_SINGLE_NODE_WRITER, "to read": readerOnly,
	} {
		t.Run(name, func(t *testing.T) {
			h := newBlockHost(t)
			v, target := h.create("pvc", asBlock), h.target("pod")
			v.cap = capability(asBlock, withMode(mode))
			must(t, v.stage())
			must(t, loop.New(h.path("pool"), nil).Detach(t.Context(), v.image()))
			if left := h.loopDevices(); len(left) > 0 {
				t.Fatalf("still there: %v", left)
			}
			must(t, v.publish(target))
			devices := h.loopDevices()
			if len(devices) != 1 || deviceNumber(t, target) != deviceNumber(t, devices[0]) {
				t.Errorf("the target is not the volume's device, of %v", devices)
			}
			file, err := os.OpenFile(target, os.O_RDWR, 0)
			if err == nil {
				_, err = file.WriteAt(make([]byte, 4096), 0)
				err = errors.Join(err, file.Sync(), file.Close())
			}
			if readOnly := mode == readerOnly; readOnly != (err != nil) {
				t.Errorf("written to: %v", err)
			}
			must(t, v.unpublish(target))
			must(t, v.unstage())
			if left := h.loopDevices(); len(left) > 0 {
				t.Errorf("left: %v", left)
			}
		})
	}
}

func TestAStagedDeviceThatIsInUseStays(t *testing.T) {
	h := newBlockHost(t)
	v := h.create("pvc", asBlock)
	must(t, v.stage())
	device := h.loopDevices()[0]
	holder, err := os.OpenFile(device, os.O_RDWR|unix.O_EXCL, 0) // as a machine that no record speaks of
	must(t, err)
	refused(t, v.unstage(), codes.FailedPrecondition, device, "virtual machine")
	refused(t, v.delete(), codes.FailedPrecondition)
	must(t, holder.Close())
	must(t, v.unstage())
	must(t, v.delete())
}

// A loop device that no staged volume speaks of: left by a rollback that failed, made by a person, or in use by somebody
// whom this driver has forgotten.
func TestAVolumeWithALoopDeviceIsDeletedOnlyWhenNobodyUsesIt(t *testing.T) {
	for name, change := range map[string][]func(*csi.VolumeCapability){"raw": {asBlock}, "mounted": nil} {
		t.Run(name, func(t *testing.T) {
			h := newBlockHost(t)
			v := h.create("pvc", change...)
			left, err := loop.New(h.path("pool"), nil).Attach(t.Context(), v.image(), false)
			must(t, err)
			holder, err := os.OpenFile(left.Path, os.O_RDWR|unix.O_EXCL, 0)
			must(t, err)
			refused(t, v.delete(), codes.FailedPrecondition, left.Path)
			must(t, holder.Close())
			must(t, v.delete())
			if devices := h.loopDevices(); len(devices) > 0 {
				t.Errorf("left: %v", devices)
			}

			v = h.create("foreign", change...)
			out, err := exec.Command("losetup", "--find", "--show", v.image()).Output()
			must(t, err)
			device := strings.TrimSpace(string(out))
			refused(t, v.delete(), codes.FailedPrecondition, device)
			must(t, exec.Command("losetup", "--detach", device).Run())
			must(t, v.delete())
		})
	}
}

func TestTheSizeOfARawBlockVolumeIsKnownWithoutAGuest(t *testing.T) {
	h := newBlockHost(t)
	v, target := h.published("pvc", asBlock)
	usage, err := v.stats(target)
	if err != nil || len(usage) != 1 || usage[0].GetTotal() != gib || usage[0].GetUnit() != csi.VolumeUsage_BYTES {
		t.Errorf("%v, %v", usage, err)
	}
	must(t, v.unpublish(target))
	must(t, v.unstage())
}
