package sandbox

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/containerd/containerd/api/types"
	"github.com/containerd/ttrpc"
	"github.com/moby/sys/mountinfo"
	"github.com/opencontainers/runtime-spec/specs-go"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/katadirect/katadirect/pkg/agentproto"
	"github.com/katadirect/katadirect/pkg/directvolume"
	"github.com/katadirect/katadirect/pkg/runtime/config"
	"github.com/katadirect/katadirect/pkg/runtime/qemu"
	"github.com/katadirect/katadirect/pkg/runtime/vm"
)

var errInjected = errors.New("injected")

// machine is a hypervisor that has an agent at once, and dies or fails when told to. The real one is tried in
// machine_test.go.
type machine struct {
	agent     *agent
	failStart error
	failDial  error
	failStop  error

	mu      sync.Mutex
	plugged map[string]vm.Disk
	conns   []net.Conn
	err     error
	done    chan struct{}
	served  sync.WaitGroup
}

func newMachine(a *agent) *machine {
	return &machine{agent: a, plugged: make(map[string]vm.Disk), done: make(chan struct{})}
}

func (m *machine) Start(context.Context) error { return m.failStart }

func (m *machine) DialAgent(ctx context.Context) (net.Conn, error) {
	if m.failDial != nil {
		<-ctx.Done() // like a guest that never comes up
		return nil, m.failDial
	}
	l, err := net.Listen("unix", "")
	if err != nil {
		return nil, err
	}
	server, err := ttrpc.NewServer()
	if err != nil {
		return nil, err
	}
	agentproto.RegisterAgentServiceService(server, m.agent)
	agentproto.RegisterHealthService(server, m.agent)
	m.served.Go(func() { _ = server.Serve(context.Background(), l) })
	m.served.Go(func() { <-m.done; _ = server.Close() })
	conn, err := net.Dial("unix", l.Addr().String())
	m.mu.Lock()
	defer m.mu.Unlock()
	m.conns = append(m.conns, conn)
	return conn, err
}

func (m *machine) AgentURL() string { return "vserial:///test" }

func (m *machine) PlugDisk(_ context.Context, d vm.Disk) (vm.DiskAddress, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.plugged[d.ID] = d
	return vm.DiskAddress{Driver: "blk", Source: fmt.Sprintf("02/%02x", len(m.plugged))}, nil
}

func (m *machine) UnplugDisk(_ context.Context, id string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.plugged, id)
	return nil
}

func (m *machine) ResizeDisk(context.Context, string, int64) error { return nil }
func (m *machine) PID() int                                        { return os.Getpid() }
func (m *machine) Done() <-chan struct{}                           { return m.done }

func (m *machine) Err() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.err
}

// die ends the machine by itself.
func (m *machine) die(err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	select {
	case <-m.done:
	default:
		m.err = err
		close(m.done)
	}
	for _, c := range m.conns {
		_ = c.Close()
	}
}

func (m *machine) Stop(context.Context) error {
	if m.failStop != nil {
		return m.failStop
	}
	m.die(nil)
	return nil
}

// agent notes what it is told, and fails or hangs when told to.
type agent struct {
	agentproto.Unimplemented
	fail map[string]error
	hang chan struct{} // not nil: nothing is answered until it is closed

	mu       sync.Mutex
	calls    []string
	sandbox  *agentproto.CreateSandboxRequest
	requests map[string]*agentproto.CreateContainerRequest
	exited   map[string]chan struct{}
}

func newAgent() *agent {
	return &agent{
		fail:     make(map[string]error),
		requests: make(map[string]*agentproto.CreateContainerRequest),
		exited:   make(map[string]chan struct{}),
	}
}

func (a *agent) call(name, what string) error {
	a.mu.Lock()
	a.calls = append(a.calls, strings.TrimSpace(name+" "+what))
	hang, err := a.hang, a.fail[name]
	a.mu.Unlock()
	if hang != nil {
		<-hang
	}
	return err
}

func (a *agent) stopAnswering() (resume func()) {
	a.mu.Lock()
	defer a.mu.Unlock()
	hang := make(chan struct{})
	a.hang = hang
	return func() { close(hang) }
}

func (a *agent) called(name string) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return slices.Contains(a.calls, name)
}

func (a *agent) Check(context.Context, *agentproto.CheckRequest) (*agentproto.HealthCheckResponse, error) {
	a.mu.Lock()
	hang, err := a.hang, a.fail["Check"]
	a.mu.Unlock()
	if hang != nil {
		<-hang
	}
	return &agentproto.HealthCheckResponse{Status: agentproto.HealthCheckResponse_SERVING}, err
}

func (a *agent) Version(context.Context, *agentproto.CheckRequest) (*agentproto.VersionCheckResponse, error) {
	return &agentproto.VersionCheckResponse{}, nil
}

func (a *agent) GetGuestDetails(context.Context, *agentproto.GuestDetailsRequest) (*agentproto.GuestDetailsResponse, error) {
	return &agentproto.GuestDetailsResponse{AgentDetails: &agentproto.AgentDetails{
		Version: "test", ExtraFeatures: []string{"katadirect.resize-volume", "katadirect.grow-on-mount"}}}, a.call("GetGuestDetails", "")
}

func (a *agent) CreateSandbox(_ context.Context, r *agentproto.CreateSandboxRequest) (*agentproto.Empty, error) {
	a.mu.Lock()
	a.sandbox = r
	a.mu.Unlock()
	return &agentproto.Empty{}, a.call("CreateSandbox", "")
}

func (a *agent) DestroySandbox(context.Context, *agentproto.DestroySandboxRequest) (*agentproto.Empty, error) {
	return &agentproto.Empty{}, a.call("DestroySandbox", "")
}

func (a *agent) CreateContainer(_ context.Context, r *agentproto.CreateContainerRequest) (*agentproto.Empty, error) {
	if err := a.call("CreateContainer", r.GetContainerId()); err != nil {
		return nil, err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.requests[r.GetContainerId()] = r
	return &agentproto.Empty{}, nil
}

func (a *agent) RemoveContainer(_ context.Context, r *agentproto.RemoveContainerRequest) (*agentproto.Empty, error) {
	if err := a.call("RemoveContainer", r.GetContainerId()); err != nil {
		return nil, err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if _, ok := a.requests[r.GetContainerId()]; !ok {
		return nil, status.Error(codes.NotFound, "no such container")
	}
	delete(a.requests, r.GetContainerId())
	return &agentproto.Empty{}, nil
}

func (a *agent) SignalProcess(_ context.Context, r *agentproto.SignalProcessRequest) (*agentproto.Empty, error) {
	return &agentproto.Empty{}, a.call("SignalProcess", fmt.Sprintf("%s/%s %d", r.GetContainerId(), r.GetExecId(), r.GetSignal()))
}

func (a *agent) ExecProcess(_ context.Context, r *agentproto.ExecProcessRequest) (*agentproto.Empty, error) {
	return &agentproto.Empty{}, a.call("ExecProcess", r.GetContainerId()+"/"+r.GetExecId())
}

func (a *agent) WaitProcess(_ context.Context, r *agentproto.WaitProcessRequest) (*agentproto.WaitProcessResponse, error) {
	return &agentproto.WaitProcessResponse{Status: 7}, a.call("WaitProcess", r.GetContainerId()+"/"+r.GetExecId())
}

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
		times:      times{checkPeriod: 10 * time.Millisecond, checkDeadline: time.Second, guestEnd: time.Second},
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
	if h.roots.sandboxes().Alive("s1") {
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
