package task

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/containerd/containerd/api/events"
	taskapi "github.com/containerd/containerd/api/runtime/task/v2"
	tasktypes "github.com/containerd/containerd/api/types/task"
	"github.com/containerd/ttrpc"
	"github.com/opencontainers/runtime-spec/specs-go"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
)

// patience bounds every wait of a test for something that must happen.
const patience = 20 * time.Second

// rig is a service behind a real ttrpc connection, with a fake machine and a publisher that remembers.
type rig struct {
	*testing.T
	ctx     context.Context
	client  taskapi.TTRPCTaskService
	ttrpc   *ttrpc.Client
	service *Service
	sandbox *fakeSandbox
	log     *syncBuffer

	mu        sync.Mutex
	booted    []BootRequest
	published []proto.Message
	news      chan struct{} // closed and replaced at every event
	down      chan struct{} // closed by Shutdown
	away      atomic.Bool   // containerd is
}

func newRig(t *testing.T, h hooks) *rig {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 3*patience)
	r := &rig{
		T: t, ctx: ctx, sandbox: newFakeSandbox(h), log: new(syncBuffer),
		news: make(chan struct{}), down: make(chan struct{}),
	}
	log := slog.New(slog.NewTextHandler(r.log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	r.service = New(Config{
		Boot:     r.boot,
		Events:   r,
		Shutdown: sync.OnceFunc(func() { close(r.down) }),
		Log:      log,

		Namespace: "moby",
		Connected: func() bool { return !r.away.Load() },
	})
	server, err := ttrpc.NewServer(ttrpc.WithUnaryServerInterceptor(Interceptor(log)))
	if err != nil {
		t.Fatal(err)
	}
	Register(server, r.service)
	path := filepath.Join(t.TempDir(), "s")
	listener, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan struct{})
	go func() { defer close(served); _ = server.Serve(ctx, listener) }()
	conn, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	r.ttrpc = ttrpc.NewClient(conn)
	r.client = taskapi.NewTTRPCTaskClient(r.ttrpc)
	t.Cleanup(func() {
		r.sandbox.die(nil)
		if err := r.service.Close(ctx); err != nil {
			t.Errorf("close the service: %v", err)
		}
		r.ttrpc.Close()
		server.Close()
		<-served
		cancel()
		if t.Failed() {
			t.Logf("the service's log:\n%s", r.log)
		}
	})
	return r
}

func (r *rig) boot(ctx context.Context, b BootRequest) (Sandbox, error) {
	if err := run(r.sandbox.hooks.boot, ctx, b.ID); err != nil {
		return nil, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.booted = append(r.booted, b)
	return r.sandbox, nil
}

// Publish remembers an event.
func (r *rig) Publish(_ string, event proto.Message) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.published = append(r.published, event)
	close(r.news)
	r.news = make(chan struct{})
}

// sequence returns the events so far in short form: "exit c1", "exec-started c1/e1".
func (r *rig) sequence() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	var out []string
	for _, e := range r.published {
		switch e := e.(type) {
		case *events.TaskCreate:
			out = append(out, "create "+e.GetContainerID())
		case *events.TaskStart:
			out = append(out, "start "+e.GetContainerID())
		case *events.TaskExecAdded:
			out = append(out, "exec-added "+e.GetExecID())
		case *events.TaskExecStarted:
			out = append(out, "exec-started "+e.GetExecID())
		case *events.TaskExit:
			out = append(out, "exit "+e.GetID())
		case *events.TaskDelete:
			out = append(out, "delete "+e.GetContainerID())
		case *events.TaskPaused:
			out = append(out, "paused "+e.GetContainerID())
		case *events.TaskResumed:
			out = append(out, "resumed "+e.GetContainerID())
		case *events.TaskOOM:
			out = append(out, "oom "+e.GetContainerID())
		}
	}
	return out
}

// await waits until the event has been published.
func (r *rig) await(event string) {
	r.Helper()
	limit := time.After(patience)
	for {
		r.mu.Lock()
		news := r.news
		r.mu.Unlock()
		if slices.Contains(r.sequence(), event) {
			return
		}
		select {
		case <-news:
		case <-limit:
			r.Fatalf("no event %q, only %q", event, r.sequence())
		}
	}
}

// spec describes a container to create.
type spec struct {
	id          string
	args        []string
	annotations map[string]string
	mounts      []specs.Mount
	io          StdioConfig
	options     *anypb.Any
}

// asPod are the annotations of a pod's sandbox, inPod those of a container in it.
func asPod() map[string]string {
	return map[string]string{"io.kubernetes.cri.container-type": "sandbox"}
}

func inPod(id string) map[string]string {
	return map[string]string{"io.kubernetes.cri.container-type": "container", "io.kubernetes.cri.sandbox-id": id}
}

func sh(script string) []string { return []string{"sh", "-c", script} }

// forever is a container that ends when it is killed.
func forever() []string { return []string{"sleep", "1000000"} }

// request writes a bundle for the container and returns what containerd would send.
func (r *rig) request(c spec) *taskapi.CreateTaskRequest {
	r.Helper()
	bundle := r.TempDir()
	data, err := json.Marshal(&specs.Spec{
		Process:     &specs.Process{Args: c.args},
		Root:        &specs.Root{Path: "rootfs"},
		Annotations: c.annotations,
		Mounts:      c.mounts,
	})
	if err != nil {
		r.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(bundle, "config.json"), data, 0o600); err != nil {
		r.Fatal(err)
	}
	return &taskapi.CreateTaskRequest{
		ID: c.id, Bundle: bundle, Options: c.options,
		Stdin: c.io.Stdin, Stdout: c.io.Stdout, Stderr: c.io.Stderr, Terminal: c.io.Terminal,
	}
}

func (r *rig) create(c spec) {
	r.Helper()
	resp, err := r.client.Create(r.ctx, r.request(c))
	if err != nil {
		r.Fatalf("create %s: %v", c.id, err)
	}
	if int(resp.GetPid()) != r.sandbox.PID() {
		r.Fatalf("create %s: pid %d, want the hypervisor's %d", c.id, resp.GetPid(), r.sandbox.PID())
	}
}

func (r *rig) start(id, execID string) {
	r.Helper()
	if _, err := r.client.Start(r.ctx, &taskapi.StartRequest{ID: id, ExecID: execID}); err != nil {
		r.Fatalf("start %s/%s: %v", id, execID, err)
	}
}

// run creates and starts.
func (r *rig) run(c spec) {
	r.Helper()
	r.create(c)
	r.start(c.id, "")
}

func (r *rig) exec(id, execID string, args []string, io StdioConfig) {
	r.Helper()
	if _, err := r.client.Exec(r.ctx, execRequest(r.T, id, execID, args, io)); err != nil {
		r.Fatalf("exec %s/%s: %v", id, execID, err)
	}
}

func execRequest(t *testing.T, id, execID string, args []string, io StdioConfig) *taskapi.ExecProcessRequest {
	t.Helper()
	data, err := json.Marshal(&specs.Process{Args: args})
	if err != nil {
		t.Fatal(err)
	}
	return &taskapi.ExecProcessRequest{
		ID: id, ExecID: execID, Stdin: io.Stdin, Stdout: io.Stdout, Stderr: io.Stderr, Terminal: io.Terminal,
		Spec: &anypb.Any{TypeUrl: "types.containerd.io/opencontainers/runtime-spec/1/Process", Value: data},
	}
}

func (r *rig) kill(id, execID string, sig syscall.Signal) error {
	_, err := r.client.Kill(r.ctx, &taskapi.KillRequest{ID: id, ExecID: execID, Signal: uint32(sig)})
	return err
}

func (r *rig) delete(id, execID string) (*taskapi.DeleteResponse, error) {
	return r.client.Delete(r.ctx, &taskapi.DeleteRequest{ID: id, ExecID: execID})
}

// wait returns the exit status.
func (r *rig) wait(id, execID string) uint32 {
	r.Helper()
	ctx, cancel := context.WithTimeout(r.ctx, patience)
	defer cancel()
	resp, err := r.client.Wait(ctx, &taskapi.WaitRequest{ID: id, ExecID: execID})
	if err != nil {
		r.Fatalf("wait %s/%s: %v", id, execID, err)
	}
	if resp.GetExitedAt().AsTime().IsZero() || time.Since(resp.GetExitedAt().AsTime()) > time.Minute {
		r.Errorf("wait %s/%s: ended at %v", id, execID, resp.GetExitedAt().AsTime())
	}
	return resp.GetExitStatus()
}

func (r *rig) status(id, execID string) tasktypes.Status {
	r.Helper()
	resp, err := r.client.State(r.ctx, &taskapi.StateRequest{ID: id, ExecID: execID})
	if err != nil {
		r.Fatalf("state of %s/%s: %v", id, execID, err)
	}
	return resp.GetStatus()
}

// wantCode fails the test unless err carries the code.
func wantCode(t *testing.T, err error, want codes.Code) {
	t.Helper()
	if got := status.Code(err); got != want {
		t.Errorf("got %v (%v), want code %v", got, err, want)
	}
}

func wantEqual[T comparable](t *testing.T, what string, got, want T) {
	t.Helper()
	if got != want {
		t.Errorf("%s: got %v, want %v", what, got, want)
	}
}

// fifo makes a fifo as containerd does.
func fifo(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "fifo")
	if err := syscall.Mkfifo(path, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// reading reads a fifo to its end in the background; the function it returns waits for what was read.
func reading(t *testing.T, path string) func() []byte {
	t.Helper()
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	// Without a writer a non-blocking read says end of file: hold one until the service has its own.
	holder, err := os.OpenFile(path, os.O_WRONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	var data bytes.Buffer
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer f.Close()
		_, _ = io.Copy(&data, f)
	}()
	return func() []byte {
		t.Helper()
		holder.Close()
		select {
		case <-done:
		case <-time.After(patience):
			t.Fatal("the fifo was not closed")
		}
		return data.Bytes()
	}
}

type syncBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *syncBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *syncBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}
