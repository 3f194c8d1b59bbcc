package sandbox

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/containerd/containerd/api/types"
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/katadirect/katadirect/internal/guestimage"
	"github.com/katadirect/katadirect/pkg/directvolume"
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
	h.options.Config.Agent.DialTimeout = 2 * time.Minute              // a busy host without KVM boots slowly
	h.options.Config.Runtime.CreateContainerTimeout = 5 * time.Minute // and mounts slowly
	h.options.Log = slog.New(slog.NewTextHandler(newTestLog(t), &slog.HandlerOptions{Level: slog.LevelDebug}))
	for _, tool := range []string{"sh", "cat", "df", "sleep", "mount", "sync", "stat", "true", "head",
		"dd", "mknod", "ls", "wc", "touch", "mkdir"} {
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

// testLog writes to the test's log while the test runs. Libraries have goroutines that speak once more when their
// connection has been closed, and a test that has ended must not be written to.
type testLog struct {
	mu sync.Mutex
	t  *testing.T // guarded by mu; nil when it has ended
}

func newTestLog(t *testing.T) *testLog {
	l := &testLog{t: t}
	t.Cleanup(func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.t = nil
	})
	return l
}

func (l *testLog) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.t != nil {
		l.t.Logf("%s", bytes.TrimSpace(p))
	}
	return len(p), nil
}

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
	copying.Go(func() { _, _ = io.Copy(&stderr, s.Stderr(t.Context(), container, id)) })
	stdout, err := io.ReadAll(s.Stdout(t.Context(), container, id))
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
