package sandbox

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/containerd/containerd/api/types"
	"github.com/moby/sys/mountinfo"
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/katadirect/katadirect/pkg/directvolume"
	"github.com/katadirect/katadirect/pkg/runtime/config"
	"github.com/katadirect/katadirect/pkg/runtime/qemu"
	"github.com/katadirect/katadirect/pkg/runtime/vm"
)

// host is a place for sandboxes, and what is needed to make one there.
type host struct {
	t       *testing.T
	dir     string
	roots   Roots
	machine *machine
	agent   *agent
	options Options
}

func newHost(t *testing.T) *host {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Fatal("mounting needs root")
	}
	// Below /tmp and not in t.TempDir: a socket's path is short.
	dir, err := os.MkdirTemp("", "kd-sb-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	h := &host{t: t, dir: dir, agent: newAgent(), roots: Roots{
		Run: dir + "/sbs", VM: dir + "/vm", Share: dir + "/share", Records: dir + "/records"}}
	h.machine = newMachine(h.agent)
	t.Cleanup(func() { h.machine.die(nil); h.machine.served.Wait() })
	c := config.Default()
	c.Hypervisor.Kernel, c.Hypervisor.Initrd = h.file("vmlinux", ""), h.file("initrd", "")
	c.Agent.DialTimeout = 10 * time.Second
	h.options = Options{
		ID: "s1", Bundle: h.folder("bundle"), Config: c, Roots: h.roots, Log: slog.New(slog.DiscardHandler),
		Spec:       &specs.Spec{Hostname: "pod", Process: &specs.Process{Args: []string{"/pause"}, Cwd: "/"}},
		newMachine: func(qemu.Config) vm.Machine { return h.machine },
		times:      times{checkPeriod: 10 * time.Millisecond, checkDeadline: 20 * time.Second, guestEnd: time.Second, settle: 200 * time.Millisecond},
	}
	return h
}

func (h *host) folder(name string) string {
	h.t.Helper()
	path := filepath.Join(h.dir, name)
	if err := os.MkdirAll(path, 0o755); err != nil {
		h.t.Fatal(err)
	}
	return path
}

func (h *host) file(name, content string) string {
	h.t.Helper()
	path := filepath.Join(h.dir, name)
	h.folder(filepath.Dir(name))
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		h.t.Fatal(err)
	}
	return path
}

// create makes the sandbox, which the test's end stops.
func (h *host) create() *Sandbox {
	h.t.Helper()
	s, err := Create(h.t.Context(), h.options)
	if err != nil {
		h.t.Fatal(err)
	}
	h.t.Cleanup(func() {
		if err := s.Stop(context.WithoutCancel(h.t.Context())); err != nil {
			h.t.Error(err)
		}
	})
	return s
}

// nothingLeft checks that no trace of a sandbox is on the host.
func (h *host) nothingLeft() {
	h.t.Helper()
	mounts, err := mountinfo.GetMounts(mountinfo.PrefixFilter(h.dir))
	if err != nil || len(mounts) > 0 {
		h.t.Errorf("mounts left: %v, %v", mounts, err)
	}
	for _, root := range []string{h.roots.Run, h.roots.VM, h.roots.Share} {
		if entries, err := os.ReadDir(root); err == nil && len(entries) > 0 {
			h.t.Errorf("left in %s: %v", root, entries)
		}
	}
	if _, err := os.Lstat(filepath.Join(h.options.Bundle, monitorAddress)); err == nil {
		h.t.Error("monitor_address is left in the bundle")
	}
	if h.alive() {
		h.t.Error("the sandbox counts as alive")
	}
	if entries, err := h.roots.records().List(h.t.Context()); err != nil {
		h.t.Error(err)
	} else {
		for _, e := range entries {
			if len(e.Sandboxes)+len(e.Stale) > 0 {
				h.t.Errorf("%s is still claimed", e.VolumePath)
			}
		}
	}
}

// shared lists what is shared with containers; the share itself has a folder of its own there.
func (h *host) shared() []string {
	h.t.Helper()
	entries, err := os.ReadDir(h.roots.Share + "/s1/mounts")
	if err != nil {
		h.t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		if e.Name() != "watchable" {
			names = append(names, e.Name())
		}
	}
	return names
}

// alive reports whether the sandbox holds its lease. Processes that name it prove nothing here: others on this host may
// run the same tests, with the same name.
func (h *host) alive() bool {
	return directvolume.Sandboxes{GoDir: h.roots.Run, ProcDir: h.dir}.Alive("s1")
}

// container is the request for one with a root file system by an overlay mount.
func (h *host) container(id string, mounts ...specs.Mount) ContainerRequest {
	h.t.Helper()
	lower := h.folder("images/lower")
	return ContainerRequest{
		ID: id, Bundle: h.folder("bundles/" + id),
		Spec: &specs.Spec{Process: &specs.Process{Args: []string{"sh"}, Cwd: "/"}, Root: &specs.Root{Path: "rootfs"}, Mounts: mounts},
		Rootfs: []*types.Mount{{Type: "overlay", Source: "overlay", Options: []string{
			"lowerdir=" + lower, "upperdir=" + h.folder("images/"+id+"/upper"), "workdir=" + h.folder("images/"+id+"/work")}}},
	}
}

// volume records a volume and returns the container's mount of it.
func (h *host) volume(name string) specs.Mount {
	h.t.Helper()
	path := h.folder("target/" + name)
	err := h.roots.records().Add(h.t.Context(), path, directvolume.Record{
		VolumeType: directvolume.VolumeTypeDirect, Device: h.file("pool/"+name, "disk"), FSType: "ext4"})
	if err != nil {
		h.t.Fatal(err)
	}
	return bind(path, "/data")
}

func bind(source, destination string) specs.Mount {
	return specs.Mount{Type: "bind", Source: source, Destination: destination, Options: []string{"rbind", "rprivate", "rw"}}
}
