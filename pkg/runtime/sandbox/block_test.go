package sandbox

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/containerd/api/types"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/katadirect/katadirect/pkg/directvolume"
	"github.com/katadirect/katadirect/pkg/runtime/config"
	"github.com/katadirect/katadirect/pkg/runtime/sandbox/guestspec"
	"github.com/katadirect/katadirect/pkg/runtime/vm"
	"github.com/katadirect/katadirect/pkg/runtime/volume"
)

const mib = 1 << 20

// loop makes a block device with a backing file of that size.
func (h *host) loop(name string, sizeBytes int64) (device, image string) {
	h.t.Helper()
	image = h.file("images/"+name, "")
	if err := os.Truncate(image, sizeBytes); err != nil {
		h.t.Fatal(err)
	}
	out, err := exec.Command("losetup", "--find", "--show", image).Output()
	if err != nil {
		h.t.Fatal(err)
	}
	device = strings.TrimSpace(string(out))
	h.t.Cleanup(func() {
		if out, err := exec.Command("losetup", "--detach", device).CombinedOutput(); err != nil {
			h.t.Errorf("detach %s: %s", device, out)
		}
	})
	return device, image
}

// asContainerd gives the container a block device as containerd does: its number, a node, and a rule that allows it.
func asContainerd(t *testing.T, r *ContainerRequest, device, path, access string) {
	t.Helper()
	var stat unix.Stat_t
	if err := unix.Stat(device, &stat); err != nil {
		t.Fatal(err)
	}
	major, minor := int64(unix.Major(stat.Rdev)), int64(unix.Minor(stat.Rdev))
	if r.Spec.Linux == nil {
		r.Spec.Linux = &specs.Linux{}
	}
	l := r.Spec.Linux
	if l.Resources == nil {
		l.Resources = &specs.LinuxResources{Devices: []specs.LinuxDeviceCgroup{{Allow: false, Access: "rwm"}}}
	}
	mode := os.FileMode(0o660)
	l.Devices = append(l.Devices, specs.LinuxDevice{Path: path, Type: "b", Major: major, Minor: minor, FileMode: &mode})
	l.Resources.Devices = append(l.Resources.Devices,
		specs.LinuxDeviceCgroup{Allow: true, Type: "b", Major: &major, Minor: &minor, Access: access})
}

// mayMakeNodes gives a container the capabilities that containerd gives by default and that matter here.
func mayMakeNodes(r *ContainerRequest) {
	caps := []string{"CAP_MKNOD", "CAP_DAC_OVERRIDE", "CAP_CHOWN", "CAP_FOWNER"}
	r.Spec.Process.Capabilities = &specs.LinuxCapabilities{Bounding: caps, Effective: caps, Permitted: caps}
}

func TestABlockDeviceInARealMachine(t *testing.T) {
	h := newMachineHost(t)
	s := h.create()
	client := directvolume.NewClient("s1", directvolume.WithClientSandboxes(h.roots.sandboxes()))
	sleep := []string{"sleep", "100000"}
	device, image := h.loop("raw", 64*mib)
	data := h.blank("v", 64*mib)

	writer := h.busybox("writer", sleep)
	asContainerd(t, &writer, device, "/dev/xvda", "rwm")
	mayMakeNodes(&writer)
	start(t, s, writer)
	reader := h.busybox("reader", sleep)
	asContainerd(t, &reader, device, "/dev/other", "r")
	mayMakeNodes(&reader)
	start(t, s, reader)
	other := h.busybox("other", sleep, data)
	asContainerd(t, &other, "/dev/null", "/dev/unused", "rwm") // rules, but none for the disk
	other.Spec.Linux.Devices = nil
	mayMakeNodes(&other)
	start(t, s, other)

	t.Run("what a container writes is on the host's device", func(t *testing.T) {
		if out, status := run(t, s, "writer", "sh", "-c", "echo content | dd of=/dev/xvda bs=512 seek=9 conv=sync,fsync 2>/dev/null"); status != 0 {
			t.Fatalf("%d %s", status, out)
		}
		got := make([]byte, 7)
		f, err := os.Open(image)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		if _, err := f.ReadAt(got, 9*512); err != nil || string(got) != "content" {
			t.Errorf("%q, %v", got, err)
		}
	})
	t.Run("one that may only read it does that", func(t *testing.T) {
		if out, status := run(t, s, "reader", "sh", "-c", "dd if=/dev/other bs=512 skip=9 count=1 2>/dev/null | head -c 7"); status != 0 || out != "content" {
			t.Errorf("%d %q", status, out)
		}
		if out, status := run(t, s, "reader", "dd", "if=/dev/zero", "of=/dev/other", "count=1"); status == 0 {
			t.Errorf("it has written: %s", out)
		}
	})
	t.Run("no container reaches a disk that is not its own", func(t *testing.T) {
		numbers, _ := run(t, s, "writer", "stat", "-c", "0x%t 0x%T", "/dev/xvda")
		out, status := run(t, s, "other", "sh", "-c", "mknod /tmp/disk b $(printf '%d %d' "+strings.TrimSpace(numbers)+") && head -c 1 /tmp/disk")
		if status == 0 || !strings.Contains(out, "not permitted") {
			t.Errorf("a node of the raw device: %d %q", status, out)
		}
	})
	t.Run("it is one disk, and nothing else gets it", func(t *testing.T) {
		if got := s.volumes.List(); len(got) != 2 {
			t.Errorf("plugged in: %+v", got)
		}
		// The kernel keeps the host, and any other machine, from opening it exclusively, as a mount would.
		if f, err := os.OpenFile(device, os.O_RDONLY|unix.O_EXCL, 0); !errors.Is(err, unix.EBUSY) {
			t.Errorf("an exclusive open on the host: %v", err)
			_ = f.Close()
		}
		path := h.folder("target/mixed")
		err := h.roots.records().Add(t.Context(), path, directvolume.Record{Device: device, FSType: "ext4"})
		if err != nil {
			t.Fatal(err)
		}
		if err := s.CreateContainer(t.Context(), h.busybox("mixed", sleep, bind(path, "/data"))); !errors.Is(err, volume.ErrOtherUse) {
			t.Errorf("the same device to be mounted: %v", err)
		}
		if err := h.roots.records().Remove(t.Context(), path); err != nil {
			t.Error(err)
		}
	})
	t.Run("it grows in use, and only its size is known", func(t *testing.T) {
		if err := os.Truncate(image, 128*mib); err != nil {
			t.Fatal(err)
		}
		if err := client.Resize(t.Context(), device, 128*mib); err != nil {
			t.Fatal(err)
		}
		const sectors = "cat /sys/dev/block/$(printf '%d:%d' $(stat -c '0x%t 0x%T' /dev/xvda))/size"
		if out, _ := run(t, s, "writer", "sh", "-c", sectors); strings.TrimSpace(out) != fmt.Sprint(128*mib/512) {
			t.Errorf("the container sees %q sectors", out)
		}
		stats, err := client.Stats(t.Context(), device)
		if err != nil || len(stats.Usage) != 1 || stats.Usage[0] != (directvolume.VolumeUsage{Total: 128 * mib, Unit: directvolume.UnitBytes}) {
			t.Errorf("stats %+v, %v", stats, err)
		}
	})
	t.Run("it stays for the container's next life", func(t *testing.T) {
		for _, c := range []string{"writer", "reader"} {
			if err := s.RemoveContainer(t.Context(), c); err != nil {
				t.Fatal(err)
			}
		}
		again := h.busybox("again", sleep)
		asContainerd(t, &again, device, "/dev/xvda", "rwm")
		start(t, s, again)
		if out, _ := run(t, s, "again", "sh", "-c", "dd if=/dev/xvda bs=512 skip=9 count=1 2>/dev/null | head -c 7"); out != "content" {
			t.Errorf("%q", out)
		}
	})
	t.Run("all devices of the host are nobody's wish", func(t *testing.T) {
		privileged := h.busybox("privileged", sleep)
		asContainerd(t, &privileged, device, device, "rwm")
		privileged.Spec.Linux.Resources.Devices = []specs.LinuxDeviceCgroup{{Allow: true, Access: "rwm"}}
		err := s.CreateContainer(t.Context(), privileged)
		if !errors.Is(err, guestspec.ErrUnsupported) || !strings.Contains(err.Error(), "privileged_without_host_devices") {
			t.Errorf("error %v", err)
		}
	})
	t.Run("a device that the host uses is refused", func(t *testing.T) {
		busy, _ := h.loop("busy", 64*mib)
		held, err := os.OpenFile(busy, os.O_RDONLY|unix.O_EXCL, 0) // as a mounted file system does
		if err != nil {
			t.Fatal(err)
		}
		defer held.Close()
		r := h.busybox("thief", sleep)
		asContainerd(t, &r, busy, "/dev/xvda", "rwm")
		if err := s.CreateContainer(t.Context(), r); !errors.Is(err, vm.ErrInUse) {
			t.Errorf("error %v", err)
		}
	})
	if err := s.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	h.nothingLeft()
}

func TestAVolumeBelongsToItsGroupInTheGuest(t *testing.T) {
	h := newMachineHost(t)
	s := h.create()
	for policy, want := range map[string]string{"Always": "2775 2000\n660 2000\n", "OnRootMismatch": "2775 2000\n600 0\n"} {
		t.Run(policy, func(t *testing.T) {
			image := h.file("pool/"+policy, "")
			if err := os.Truncate(image, 16*mib); err != nil {
				t.Fatal(err)
			}
			// A volume whose root is as it should be, and a file in it is not.
			tree := h.folder("trees/" + policy)
			if err := os.WriteFile(tree+"/file", []byte("old\n"), 0o600); err != nil {
				t.Fatal(err)
			}
			for _, command := range [][]string{{"mkfs.ext4", "-q", "-d", tree, image},
				{"debugfs", "-w", "-R", "sif / mode 042775", image}, {"debugfs", "-w", "-R", "sif / gid 2000", image}} {
				if out, err := exec.Command(command[0], command[1:]...).CombinedOutput(); err != nil {
					t.Fatalf("%q: %s: %v", command, out, err)
				}
			}
			path := h.folder("target/" + policy)
			err := h.roots.records().Add(t.Context(), path, directvolume.Record{Device: image, FSType: "ext4", Metadata: map[string]string{
				directvolume.MetadataFSGroup: "2000", directvolume.MetadataFSGroupChangePolicy: policy}})
			if err != nil {
				t.Fatal(err)
			}
			r := h.busybox(policy, []string{"sleep", "100000"}, bind(path, "/data"))
			r.Spec.Process.User = specs.User{UID: 1000, GID: 1000, AdditionalGids: []uint32{2000}}
			start(t, s, r)
			if out, _ := run(t, s, policy, "stat", "-c", "%a %g", "/data", "/data/file"); out != want {
				t.Errorf("the folder and its file are %q, want %q", out, want)
			}
		})
	}
}

// rootfsImage makes an image file with an ext4 that holds the busybox root file system.
func (h *host) rootfsImage(name string) string {
	h.t.Helper()
	image := h.file("images/"+name, "")
	if err := os.Truncate(image, 32*mib); err != nil {
		h.t.Fatal(err)
	}
	if out, err := exec.Command("mkfs.ext4", "-q", "-d", h.dir+"/busybox", image).CombinedOutput(); err != nil {
		h.t.Fatalf("%s: %v", out, err)
	}
	return image
}

func TestABlockRootFileSystemIsPluggedInAndGoesWithItsContainer(t *testing.T) {
	h := newMachineHost(t)
	s := h.create()
	image := h.rootfsImage("root")
	device, _ := h.loop("root2", 32*mib)
	if out, err := exec.Command("mkfs.ext4", "-q", "-d", h.dir+"/busybox", device).CombinedOutput(); err != nil {
		t.Fatalf("%s: %v", out, err)
	}
	for _, tc := range []struct {
		name  string
		mount *types.Mount
		ro    bool
	}{
		{"image file", &types.Mount{Type: "ext4", Source: image, Options: []string{"loop"}}, false},
		{"block device", &types.Mount{Type: "ext4", Source: device, Options: []string{"rw"}}, false},
		{"read-only view", &types.Mount{Type: "ext4", Source: image, Options: []string{"loop", "ro"}}, true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			id := strings.ReplaceAll(tc.name, " ", "-")
			r := h.busybox(id, []string{"sleep", "100000"})
			r.Rootfs = []*types.Mount{tc.mount}
			start(t, s, r)
			out, _ := run(t, s, id, "mount")
			if !strings.HasPrefix(out, "/dev/vda on / type ext4 (r") {
				t.Errorf("the root is %s", strings.Split(out, "\n")[0])
			}
			if _, status := run(t, s, id, "sh", "-c", "echo mine >/mine && sync"); (status == 0) == tc.ro {
				t.Errorf("writing to it: %d", status)
			}
			if entries, err := os.ReadDir(filepath.Join(r.Bundle, "rootfs")); err == nil && len(entries) > 0 {
				t.Error("it was mounted on the host")
			}
			if got := s.volumes.Describe(t.Context()); len(got) != 0 {
				t.Errorf("it is among the volumes: %+v", got)
			}
			if err := s.RemoveContainer(t.Context(), id); err != nil {
				t.Fatal(err)
			}
			// Whoever made it may remove it now.
			if got := s.volumes.List(); len(got) != 0 {
				t.Errorf("still plugged in: %+v", got)
			}
			if out, err := exec.Command("e2fsck", "-f", "-n", tc.mount.Source).CombinedOutput(); err != nil {
				t.Errorf("%v: %s", err, out)
			}
		})
	}
	t.Run("what fails leaves nothing", func(t *testing.T) {
		r := h.busybox("wrong", []string{"sleep"})
		r.Rootfs = []*types.Mount{{Type: "xfs", Source: image, Options: []string{"loop"}}}
		if err := s.CreateContainer(t.Context(), r); err == nil || !strings.Contains(err.Error(), "wanted xfs") {
			t.Errorf("error %v", err)
		}
		if got := s.volumes.List(); len(got) != 0 {
			t.Errorf("plugged in: %+v", got)
		}
	})
	if err := s.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	h.nothingLeft()
}

func TestAnEmptyDirOnADiskOfItsOwn(t *testing.T) {
	h := newMachineHost(t)
	h.options.Config.Runtime.EmptyDirMode = config.EmptyDirBlock
	s := h.create()
	dir := h.folder(anEmptyDir)
	if err := errors.Join(os.Chmod(dir, 0o777|os.ModeSetgid), os.Chown(dir, -1, 3000)); err != nil {
		t.Fatal(err)
	}
	// kubelet binds a subPath from the folder on the host.
	part, at := h.folder(anEmptyDir+"/part"), h.folder("pods/uid/volume-subpaths/cache/c1/0")
	if err := unix.Mount(part, at, "", unix.MS_BIND, ""); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Unmount(at, unix.MNT_DETACH) })
	sleep := []string{"sleep", "100000"}
	start(t, s, h.busybox("c1", sleep, bind(at, "/data")))
	nobody := h.busybox("c2", sleep, bind(dir, "/data"))
	start(t, s, nobody)
	if out, status := run(t, s, "c1", "sh", "-c", "echo kept >/data/file && sync && mount"); status != 0 || !strings.Contains(out, "/dev/vda on /data type ext4 (rw") {
		t.Errorf("%d %s", status, out)
	}
	if out, _ := run(t, s, "c2", "stat", "-c", "%a %g %n", "/data", "/data/part"); out != "2777 3000 /data\n2777 3000 /data/part\n" {
		t.Errorf("the folders are %q", out)
	}
	if entries, err := os.ReadDir(part); err != nil || len(entries) > 0 {
		t.Errorf("on the host: %v, %v", entries, err)
	}
	var stat unix.Stat_t
	if err := unix.Stat(dir+"/disk.img", &stat); err != nil || stat.Size < 1<<30 || stat.Blocks*512 > 32*mib {
		t.Errorf("image of %d bytes, %d allocated, %v", stat.Size, stat.Blocks*512, err)
	}
	// It outlives its containers.
	for _, c := range []string{"c1", "c2"} {
		if err := s.RemoveContainer(t.Context(), c); err != nil {
			t.Fatal(err)
		}
	}
	start(t, s, h.busybox("c3", sleep, bind(dir, "/data")))
	if out, _ := run(t, s, "c3", "cat", "/data/part/file"); out != "kept\n" {
		t.Errorf("after both containers: %q", out)
	}
	if err := s.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := unix.Unmount(at, 0); err != nil {
		t.Error(err)
	}
	if _, err := os.Lstat(dir + "/disk.img"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the image is left: %v", err)
	}
	if entries, err := h.roots.records().List(t.Context()); err != nil || len(entries) > 0 {
		t.Errorf("records left: %+v, %v", entries, err)
	}
	h.nothingLeft()
}

func TestAnEmptyDirStaysInItsFolderUnlessItIsToHaveADisk(t *testing.T) {
	for _, tc := range []struct {
		name, mode, dir string
		disabled, disk  bool
		is              error
	}{
		{"by default", config.EmptyDirShared, anEmptyDir, false, false, nil},
		{"with a disk", config.EmptyDirBlock, anEmptyDir, false, true, nil},
		{"with a disk, where block devices are forbidden", config.EmptyDirBlock, anEmptyDir, true, false, nil},
		{"an ordinary folder", config.EmptyDirBlock, "pods/uid/volumes/kubernetes.io~configmap/cache", false, false, nil},
		{"encrypted", config.EmptyDirEncrypted, anEmptyDir, false, false, guestspec.ErrUnsupported},
		{"encrypted, where block devices are forbidden", config.EmptyDirEncrypted, anEmptyDir, true, false, guestspec.ErrUnsupported},
	} {
		t.Run(tc.name, func(t *testing.T) {
			h := newHost(t)
			h.options.Config.Runtime.EmptyDirMode, h.options.Config.Hypervisor.DisableBlock = tc.mode, tc.disabled
			s := h.create()
			dir := h.folder(tc.dir)
			err := s.CreateContainer(t.Context(), h.container("c1", bind(dir, "/cache")))
			if !errors.Is(err, tc.is) || err != nil && !strings.Contains(err.Error(), tc.mode) {
				t.Errorf("error %v", err)
			}
			if _, err := os.Stat(dir + "/disk.img"); (err == nil) != tc.disk || len(h.machine.plugged) != map[bool]int{true: 1}[tc.disk] {
				t.Errorf("image: %v; plugged in %v", err, h.machine.plugged)
			}
		})
	}
	t.Run("with files of an earlier life in it", func(t *testing.T) {
		h := newHost(t)
		h.options.Config.Runtime.EmptyDirMode = config.EmptyDirBlock
		s := h.create()
		file := h.file(anEmptyDir+"/file", "")
		err := s.CreateContainer(t.Context(), h.container("c1", bind(filepath.Dir(file), "/cache")))
		if err != nil || len(h.machine.plugged) != 0 || len(s.state.emptyDirs()) != 0 {
			t.Errorf("%v; plugged in %v, written down %v", err, h.machine.plugged, s.state.emptyDirs())
		}
		// The first container has the folder, and has emptied it: the second gets the same.
		if err := os.Remove(file); err != nil {
			t.Fatal(err)
		}
		err = s.CreateContainer(t.Context(), h.container("c2", bind(filepath.Dir(file), "/cache")))
		if err != nil || len(h.machine.plugged) != 0 {
			t.Errorf("for the second container: %v; plugged in %v", err, h.machine.plugged)
		}
	})
	t.Run("whose path goes through a link", func(t *testing.T) {
		h := newHost(t)
		h.options.Config.Runtime.EmptyDirMode = config.EmptyDirBlock
		s := h.create()
		dir := h.folder(anEmptyDir)
		root := strings.TrimSuffix(dir, anEmptyDir)
		link := filepath.Join(t.TempDir(), "kubelet")
		if err := os.Symlink(root, link); err != nil {
			t.Fatal(err)
		}
		part, at := h.folder(anEmptyDir+"/part"), h.folder("pods/uid/volume-subpaths/cache/c1/0")
		if err := unix.Mount(part, at, "", unix.MS_BIND, ""); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = unix.Unmount(at, unix.MNT_DETACH) })
		for id, source := range map[string]string{"c1": "pods/uid/volume-subpaths/cache/c1/0", "c2": anEmptyDir} {
			if err := s.CreateContainer(t.Context(), h.container(id, bind(filepath.Join(link, source), "/cache"))); err != nil {
				t.Fatal(err)
			}
		}
		if len(h.machine.plugged) != 1 || len(s.state.emptyDirs()) != 1 {
			t.Errorf("plugged in %v for %v", h.machine.plugged, s.state.emptyDirs())
		}
	})
	t.Run("that somebody has recorded as another volume", func(t *testing.T) {
		h := newHost(t)
		h.options.Config.Runtime.EmptyDirMode = config.EmptyDirBlock
		s := h.create()
		dir, image := h.folder(anEmptyDir), h.file("image", "something")
		record := directvolume.Record{Device: image, FSType: "ext4"}
		if err := h.roots.records().Add(t.Context(), dir, record); err != nil {
			t.Fatal(err)
		}
		err := s.CreateContainer(t.Context(), h.container("c1", bind(dir, "/cache")))
		if now, getErr := h.roots.records().Get(t.Context(), dir); err != nil || getErr != nil || now.Device != image || len(h.machine.plugged) != 1 {
			t.Errorf("%v; recorded %+v, %v; plugged in %v", err, now, getErr, h.machine.plugged)
		}
		if err := s.Stop(t.Context()); err != nil {
			t.Fatal(err)
		}
		if _, err := h.roots.records().Get(t.Context(), dir); err != nil {
			t.Errorf("the record is gone with the sandbox: %v", err)
		}
	})
	t.Run("in memory", func(t *testing.T) {
		h := newHost(t)
		h.options.Config.Runtime.EmptyDirMode = config.EmptyDirBlock
		s := h.create()
		dir := h.folder(anEmptyDir)
		if err := unix.Mount("tmpfs", dir, "tmpfs", 0, ""); err != nil {
			t.Fatal(err)
		}
		defer func() { _ = unix.Unmount(dir, unix.MNT_DETACH) }()
		if err := s.CreateContainer(t.Context(), h.container("c1", bind(dir, "/cache"))); err != nil || len(h.machine.plugged) != 0 {
			t.Errorf("%v; plugged in %v", err, h.machine.plugged)
		}
	})
}

func TestTheAgentIsToldWhatToMakeOfABlockDevice(t *testing.T) {
	h := newHost(t)
	s := h.create()
	device, _ := h.loop("raw", mib)
	for i, access := range []string{"rwm", "r"} {
		id := fmt.Sprintf("c%d", i+1)
		r := h.container(id)
		asContainerd(t, &r, device, "/dev/xvda", access)
		if err := s.CreateContainer(t.Context(), r); err != nil {
			t.Fatal(err)
		}
		got := h.agent.requests[id]
		if d := got.GetDevices(); len(d) != 1 || d[0].GetType() != "blk" || d[0].GetId() != "02/01" || d[0].GetContainerPath() != "/dev/xvda" {
			t.Errorf("devices %v", d)
		}
		if l := got.GetOCI().GetLinux(); len(l.GetDevices()) != 1 || l.GetDevices()[0].GetPath() != "/dev/xvda" {
			t.Errorf("the spec has %v; the agent looks for the path there", l.GetDevices())
		}
	}
	missing := h.container("c3")
	missing.Spec.Linux = &specs.Linux{Devices: []specs.LinuxDevice{{Path: "/dev/xvda", Type: "b", Major: 4095, Minor: 1}}}
	if err := s.CreateContainer(t.Context(), missing); !errors.Is(err, directvolume.ErrDevice) {
		t.Errorf("a device that the host does not have: %v", err)
	}
	if err := s.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	h.nothingLeft()
}
