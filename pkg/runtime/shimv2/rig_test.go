package shimv2

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	taskapi "github.com/containerd/containerd/api/runtime/task/v2"
	eventsapi "github.com/containerd/containerd/api/services/ttrpc/events/v1"
	"github.com/containerd/containerd/api/types"
	"github.com/containerd/ttrpc"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/types/known/emptypb"

	"github.com/katadirect/katadirect/internal/pidfd"
)

// patience bounds every wait for something that must happen.
const patience = 20 * time.Second

// command runs this test binary as a shim.
func command(t *testing.T, bundle string, args ...string) *exec.Cmd {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), self, args...)
	cmd.Dir = bundle
	cmd.Env = append(os.Environ(), asShim+"=1")
	return cmd
}

// rig is a containerd as the shim sees it: an events service, bundles, and the commands it runs.
type rig struct {
	*testing.T
	dir    string
	env    []string
	events *eventsServer
}

func newRig(t *testing.T) *rig {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Fatal("this test needs root: a shim makes itself a mount namespace")
	}
	dir := t.TempDir()
	r := &rig{T: t, dir: dir, events: newEventsServer(t, filepath.Join(dir, "containerd.sock.ttrpc"))}
	r.env = []string{notesIn + "=" + dir, "TTRPC_ADDRESS=" + r.events.path}
	return r
}

// bundle makes a bundle as containerd does, with the fifo for the log. A sandbox of "" is the container itself.
func (r *rig) bundle(id, sandbox string) string {
	r.Helper()
	bundle := filepath.Join(r.dir, "bundles", id)
	if err := os.MkdirAll(bundle, 0o700); err != nil {
		r.Fatal(err)
	}
	if sandbox != "" {
		if err := os.WriteFile(filepath.Join(bundle, "sandbox"), []byte(sandbox), 0o600); err != nil {
			r.Fatal(err)
		}
	}
	if err := unix.Mkfifo(filepath.Join(bundle, logFIFO), 0o700); err != nil {
		r.Fatal(err)
	}
	return bundle
}

// shim runs one of the shim's commands for a container, with the flags that containerd 1.6 passes.
func (r *rig) shim(bundle, id string, args ...string) *exec.Cmd {
	r.Helper()
	flags := []string{
		"-namespace", "test", "-address", filepath.Join(r.dir, "containerd.sock"),
		"-publish-binary", "/usr/bin/containerd", "-id", id,
	}
	cmd := command(r.T, bundle, append(flags, args...)...)
	cmd.Env = append(cmd.Env, r.env...)
	return cmd
}

// daemon is a started shim.
type daemon struct {
	id, bundle, address string
	pid                 int
	client              taskapi.TTRPCTaskService
}

// start starts a container's shim and connects to it.
func (r *rig) start(id, sandbox string) daemon {
	r.Helper()
	bundle := r.bundle(id, sandbox)
	out, err := r.shim(bundle, id, "start").CombinedOutput()
	if err != nil {
		r.Fatalf("start: %v: %s", err, out)
	}
	d := daemon{id: id, bundle: bundle, address: string(out)}
	conn, err := net.Dial("unix", strings.TrimPrefix(d.address, "unix://"))
	if err != nil {
		r.Fatalf("address %q: %v", out, err)
	}
	client := ttrpc.NewClient(conn)
	r.Cleanup(func() { client.Close() })
	d.client = taskapi.NewTTRPCTaskClient(client)
	resp, err := d.client.Connect(r.Context(), &taskapi.ConnectRequest{ID: id})
	if err != nil {
		r.Fatal(err)
	}
	d.pid = int(resp.GetShimPid())
	r.Cleanup(func() {
		_ = unix.Kill(d.pid, unix.SIGKILL)
		_ = os.Remove(d.socket())
	})
	return d
}

func (d daemon) socket() string { return strings.TrimPrefix(d.address, "unix://") }

// awaitEnd waits for the daemon's process to be gone.
func (r *rig) awaitEnd(pid int) {
	r.Helper()
	process, err := pidfd.Open(pid)
	if err != nil {
		r.Fatal(err)
	}
	defer process.Close()
	ctx, cancel := context.WithTimeout(r.Context(), patience)
	defer cancel()
	if err := process.Wait(ctx); err != nil {
		r.Fatal(err)
	}
}

func (r *rig) noted(name string) bool { return exists(filepath.Join(r.dir, name)) }

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

// processFile reads a file of a process's folder under /proc.
func processFile(t *testing.T, pid int, name string) string {
	t.Helper()
	data, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), name))
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

// eventsServer is containerd's events service, which can go away and come back.
type eventsServer struct {
	t    *testing.T
	path string

	mu     sync.Mutex
	server *ttrpc.Server     // guarded by mu; nil while away
	served chan struct{}     // guarded by mu; closed when the server has gone, and its socket with it
	got    []*types.Envelope // guarded by mu
	fail   int               // guarded by mu; calls to refuse
	news   chan struct{}     // guarded by mu; closed and replaced at every event
}

func newEventsServer(t *testing.T, path string) *eventsServer {
	s := &eventsServer{t: t, path: path, news: make(chan struct{})}
	s.start()
	t.Cleanup(s.stop)
	return s
}

func (s *eventsServer) start() {
	s.t.Helper()
	_ = os.Remove(s.path)
	l, err := net.Listen("unix", s.path)
	if err != nil {
		s.t.Fatal(err)
	}
	server, err := ttrpc.NewServer()
	if err != nil {
		s.t.Fatal(err)
	}
	eventsapi.RegisterTTRPCEventsService(server, s)
	s.mu.Lock()
	served := make(chan struct{})
	s.server, s.served = server, served
	s.mu.Unlock()
	go func() {
		defer close(served)
		_ = server.Serve(context.Background(), l)
	}()
}

func (s *eventsServer) stop() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.server != nil {
		s.server.Close()
		s.server = nil
		<-s.served // one that was closed before it served removes the socket only now, whosever that is
	}
}

// Forward takes an event.
func (s *eventsServer) Forward(_ context.Context, r *eventsapi.ForwardRequest) (*emptypb.Empty, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.fail > 0 {
		s.fail--
		return nil, fmt.Errorf("not now")
	}
	s.got = append(s.got, r.GetEnvelope())
	close(s.news)
	s.news = make(chan struct{})
	return &emptypb.Empty{}, nil
}

// await waits until n events have arrived and returns all that have.
func (s *eventsServer) await(n int) []*types.Envelope {
	s.t.Helper()
	limit := time.After(patience)
	for {
		s.mu.Lock()
		got, news := s.got, s.news
		s.mu.Unlock()
		if len(got) >= n {
			return got
		}
		select {
		case <-news:
		case <-limit:
			s.t.Fatalf("%d events arrived, want %d", len(got), n)
		}
	}
}
