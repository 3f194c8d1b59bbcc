package sandbox

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/containerd/containerd/api/types"
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/katadirect/katadirect/internal/guestimage"
	"github.com/katadirect/katadirect/pkg/directvolume"
	"github.com/katadirect/katadirect/pkg/runtime/vm"
	"github.com/katadirect/katadirect/pkg/runtime/volume"
)

// These tests boot real machines with the real agent. They need root, QEMU and Debian's package manager.

// image is the guest image with this tree's agent.
var image = sync.OnceValues(func() (guestimage.Image, error) {
	dir, err := os.MkdirTemp("", "katadirect-guest-")
	if err != nil {
		return guestimage.Image{}, err
	}
	atTheEnd = append(atTheEnd, func() { _ = os.RemoveAll(dir) })
	agent := filepath.Join(dir, "agent")
	build := exec.Command("go", "build", "-trimpath", "-ldflags=-s -w", "-o", agent, "github.com/katadirect/katadirect/cmd/agent")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		return guestimage.Image{}, fmt.Errorf("build the agent: %w\n%s", err, out)
	}
	return guestimage.Build(context.Background(), guestimage.Options{Output: filepath.Join(dir, "image"), AgentPath: agent})
})

var atTheEnd []func()

func TestMain(m *testing.M) {
	code := m.Run()
	for _, f := range atTheEnd {
		f()
	}
	os.Exit(code)
}

// newMachineHost is a host whose sandboxes are real machines.
func newMachineHost(t *testing.T) *host {
	t.Helper()
	img, err := image()
	if err != nil {
		t.Fatal(err)
	}
	h := newHost(t)
	h.options.newMachine, h.options.times = nil, times{}
	h.options.Config.Hypervisor.Kernel, h.options.Config.Hypervisor.Initrd = img.Kernel, img.Initrd
	h.options.Config.Hypervisor.MemoryMiB = 256
	h.options.Log = slog.New(slog.NewTextHandler(testLog{t}, &slog.HandlerOptions{Level: slog.LevelDebug}))
	for _, tool := range []string{"sh", "cat", "df", "sleep", "mount", "sync", "stat", "true", "head"} {
		h.folder("busybox/bin")
		if err := os.Symlink("busybox", h.dir+"/busybox/bin/"+tool); err != nil {
			t.Fatal(err)
		}
	}
	busybox, err := os.ReadFile("/bin/busybox") // Debian's busybox-static
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(h.dir+"/busybox/bin/busybox", busybox, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, dir := range []string{"proc", "sys", "dev", "etc", "tmp", "data"} {
		h.folder("busybox/" + dir)
	}
	return h
}

type testLog struct{ t *testing.T }

func (l testLog) Write(p []byte) (int, error) { l.t.Logf("%s", bytes.TrimSpace(p)); return len(p), nil }

// busybox is a container as containerd's CRI would have it, that runs args.
func (h *host) busybox(id string, args []string, mounts ...specs.Mount) ContainerRequest {
	h.t.Helper()
	nosuid := []string{"nosuid", "noexec", "nodev"}
	return ContainerRequest{
		ID: id, Bundle: h.folder("bundles/" + id),
		Rootfs: []*types.Mount{{Type: "bind", Source: h.dir + "/busybox", Options: []string{"rbind", "rw"}}},
		Spec: &specs.Spec{
			Version: "1.0.2", Root: &specs.Root{Path: "rootfs"},
			Process: &specs.Process{Args: args, Cwd: "/", Env: []string{"PATH=/bin"}},
			Mounts: append([]specs.Mount{
				{Destination: "/proc", Type: "proc", Source: "proc", Options: nosuid},
				{Destination: "/dev", Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "strictatime", "mode=755", "size=65536k"}},
				{Destination: "/dev/pts", Type: "devpts", Source: "devpts", Options: []string{"nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"}},
				{Destination: "/dev/mqueue", Type: "mqueue", Source: "mqueue", Options: nosuid},
				{Destination: "/sys", Type: "sysfs", Source: "sysfs", Options: append([]string{"ro"}, nosuid...)},
			}, mounts...),
			Linux: &specs.Linux{
				CgroupsPath: "/k8s.io/" + id,
				Namespaces: []specs.LinuxNamespace{{Type: specs.PIDNamespace}, {Type: specs.IPCNamespace},
					{Type: specs.UTSNamespace}, {Type: specs.MountNamespace}, {Type: specs.NetworkNamespace}},
			},
		},
	}
}

// start makes and starts a container.
func start(t *testing.T, s *Sandbox, r ContainerRequest) {
	t.Helper()
	if err := s.CreateContainer(t.Context(), r); err != nil {
		t.Fatal(err)
	}
	if err := s.StartContainer(t.Context(), r.ID); err != nil {
		t.Fatal(err)
	}
}

var execs int

// run executes a command in a container and returns its output and exit status.
func run(t *testing.T, s *Sandbox, container string, args ...string) (string, int) {
	t.Helper()
	execs++
	id := "e" + strconv.Itoa(execs)
	err := s.Exec(t.Context(), container, id, &specs.Process{Args: args, Cwd: "/", Env: []string{"PATH=/bin"}})
	if err != nil {
		t.Fatal(err)
	}
	var stderr bytes.Buffer
	var copying sync.WaitGroup
	copying.Go(func() { _, _ = io.Copy(&stderr, s.Stderr(container, id)) })
	stdout, err := io.ReadAll(s.Stdout(container, id))
	copying.Wait()
	if err != nil {
		t.Fatal(err)
	}
	status, err := s.Wait(t.Context(), container, id)
	if err != nil {
		t.Fatal(err)
	}
	return string(stdout) + stderr.String(), status
}

// blank records a blank volume that the guest may format.
func (h *host) blank(name string, sizeBytes int64) specs.Mount {
	h.t.Helper()
	device := h.file("pool/"+name, "")
	if err := os.Truncate(device, sizeBytes); err != nil {
		h.t.Fatal(err)
	}
	path := h.folder("target/" + name)
	err := h.roots.records().Add(h.t.Context(), path, directvolume.Record{
		VolumeType: directvolume.VolumeTypeDirect, Device: device, FSType: "ext4",
		Metadata: map[string]string{directvolume.MetadataFormat: directvolume.FormatIfBlank},
	})
	if err != nil {
		h.t.Fatal(err)
	}
	return bind(path, "/data")
}

// kilobytes is the size of the file system at /data as the container sees it.
func kilobytes(t *testing.T, s *Sandbox, container string) int {
	t.Helper()
	out, _ := run(t, s, container, "df", "-k", "/data")
	lines := strings.Split(strings.TrimSpace(out), "\n")
	fields := strings.Fields(lines[len(lines)-1])
	if len(fields) < 6 {
		t.Fatalf("df says %q", out)
	}
	size, err := strconv.Atoi(fields[1])
	if err != nil {
		t.Fatalf("df says %q", out)
	}
	return size
}

func TestAVolumeFromRecordToGuestAndBackInARealMachine(t *testing.T) {
	h := newMachineHost(t)
	s := h.create()
	data, sleep := h.blank("v", 1<<30), []string{"sleep", "100000"}
	client := directvolume.NewClient("s1", directvolume.WithClientSandboxes(h.roots.sandboxes()))
	device := h.dir + "/pool/v"

	t.Run("a container writes to it", func(t *testing.T) {
		start(t, s, h.busybox("c1", sleep, data, bind(h.file("hosts", "10.0.0.1 pod\n"), "/etc/hosts")))
		if out, status := run(t, s, "c1", "sh", "-c", "echo marker > /data/f && sync && cat /etc/hosts"); status != 0 || out != "10.0.0.1 pod\n" {
			t.Fatalf("%d %q", status, out)
		}
		if out, _ := run(t, s, "c1", "mount"); !strings.Contains(out, "/dev/vda on /data type ext4 (rw") {
			t.Errorf("mounts %s", out)
		}
	})
	t.Run("a second one reads it, read-only, through the same disk", func(t *testing.T) {
		readOnly := data
		readOnly.Options = []string{"rbind", "rprivate", "ro"}
		start(t, s, h.busybox("c2", sleep, readOnly))
		if out, status := run(t, s, "c2", "cat", "/data/f"); status != 0 || out != "marker\n" {
			t.Errorf("%d %q", status, out)
		}
		if out, status := run(t, s, "c2", "sh", "-c", "echo x > /data/f"); status == 0 || !strings.Contains(out, "Read-only") {
			t.Errorf("writing gave %d %q", status, out)
		}
		if got := s.volumes.List(); len(got) != 1 || len(got[0].Containers) != 2 {
			t.Errorf("volumes %+v", got)
		}
	})
	t.Run("it grows while both use it", func(t *testing.T) {
		before := kilobytes(t, s, "c1")
		if err := client.Resize(t.Context(), device, 2<<30); err != nil {
			t.Fatal(err)
		}
		for _, c := range []string{"c1", "c2"} {
			if after := kilobytes(t, s, c); before > 1<<20 || after < 1900<<10 {
				t.Errorf("%s: %d KiB before, %d after", c, before, after)
			}
		}
		if err := client.Resize(t.Context(), device, 1<<30); err == nil || !strings.Contains(err.Error(), vm.ErrShrink.Error()) {
			t.Errorf("shrinking: %v", err)
		}
	})
	t.Run("its stats are the guest's", func(t *testing.T) {
		stats, err := client.Stats(t.Context(), device)
		if err != nil {
			t.Fatal(err)
		}
		if size, _ := stats.Of(directvolume.UnitBytes); size.Total < 1900<<20 || stats.Condition.Abnormal {
			t.Errorf("stats %+v", stats)
		}
		if inodes, ok := stats.Of(directvolume.UnitInodes); !ok || inodes.Used == 0 {
			t.Errorf("stats %+v", stats)
		}
		if _, err := client.Stats(t.Context(), "/dev/null"); err == nil || !strings.Contains(err.Error(), "not found in sandbox") {
			t.Errorf("of an unknown device: %v", err)
		}
	})
	t.Run("it stays while one of them is left, and between two", func(t *testing.T) {
		for _, c := range []string{"c1", "c2"} {
			if err := s.RemoveContainer(t.Context(), c); err != nil {
				t.Fatal(err)
			}
		}
		if err := client.Resize(t.Context(), device, 3<<30); err != nil {
			t.Errorf("resize of an idle volume: %v", err)
		}
		if _, err := client.Stats(t.Context(), device); err == nil || !strings.Contains(err.Error(), volume.ErrNotMounted.Error()) {
			t.Errorf("stats of an idle volume: %v", err)
		}
		start(t, s, h.busybox("c3", sleep, data))
		if out, status := run(t, s, "c3", "cat", "/data/f"); status != 0 || out != "marker\n" {
			t.Errorf("%d %q", status, out)
		}
		if size := kilobytes(t, s, "c3"); size < 2900<<10 {
			t.Errorf("%d KiB after growing between two containers", size)
		}
	})
	t.Run("a bad record fails its container only", func(t *testing.T) {
		bad := h.blank("bad", 1<<30)
		files, err := filepath.Glob(h.roots.Records + "/*/mountInfo.json")
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range files {
			if text, _ := os.ReadFile(f); bytes.Contains(text, []byte("/pool/bad")) {
				if err := os.Truncate(f, 20); err != nil {
					t.Fatal(err)
				}
			}
		}
		if err := s.CreateContainer(t.Context(), h.busybox("c4", sleep, bad)); !errors.Is(err, directvolume.ErrInvalid) {
			t.Errorf("error %v", err)
		}
		if _, status := run(t, s, "c3", "true"); status != 0 {
			t.Errorf("the container beside it: %d", status)
		}
	})
	t.Run("a device that is not what the record says fails in the guest with the reason, and leaves nothing", func(t *testing.T) {
		xfs := h.blank("xfs", 1<<30)
		if out, err := exec.Command("mkfs.xfs", "-q", h.dir+"/pool/xfs").CombinedOutput(); err != nil {
			t.Fatalf("%v %s", err, out)
		}
		err := s.CreateContainer(t.Context(), h.busybox("c5", sleep, xfs))
		if err == nil || !strings.Contains(err.Error(), "agent: CreateContainer") {
			t.Errorf("error %v", err)
		}
		if entries, err := os.ReadDir(h.roots.Share + "/s1/mounts"); err != nil || len(entries) != 1 {
			t.Errorf("shared %v, %v; want only c3's", entries, err)
		}
	})

	if err := s.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	h.nothingLeft()
	// The data is what the guest wrote, on a clean file system. Nothing on the host mounts it.
	if out, err := exec.Command("e2fsck", "-fn", device).CombinedOutput(); err != nil {
		t.Errorf("e2fsck: %v\n%s", err, out)
	}
	if out, err := exec.Command("debugfs", "-R", "cat /f", device).Output(); err != nil || string(out) != "marker\n" {
		t.Errorf("on the disk: %q, %v", out, err)
	}
}

func TestAFrozenGuestIsKilledAndEverythingIsGivenBack(t *testing.T) {
	h := newMachineHost(t)
	h.options.times = times{checkPeriod: 100 * time.Millisecond, checkDeadline: 3 * time.Second, guestEnd: 3 * time.Second}
	s := h.create()
	start(t, s, h.busybox("c1", []string{"sleep", "100000"}, h.blank("v", 1<<30)))
	waited := make(chan error)
	go func() {
		_, err := s.Wait(t.Context(), "c1", "")
		waited <- err
	}()
	if err := syscall.Kill(s.PID(), syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	select {
	case <-s.Done():
	case <-time.After(time.Minute):
		t.Fatal("the frozen guest was not noticed")
	}
	if err := <-waited; err == nil {
		t.Error("the container's end was reported as an exit")
	}
	if err := s.Err(); err == nil || !strings.Contains(err.Error(), "guest is dead") {
		t.Errorf("reason %v", err)
	}
	if err := s.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	h.nothingLeft()
}
