// Package crio drives the shim as CRI-O does with a runtime of the type "vm". CRI-O itself cannot be built where these
// tests run, so the driver follows what its runtime_vm.go does, call by call: how the shim is started, which requests
// it gets, in which order, where the fifos are, and which files in the bundle are looked at.
package crio

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	taskapi "github.com/containerd/containerd/api/runtime/task/v2"
	"github.com/containerd/containerd/api/types/runtimeoptions/v1"
	"github.com/containerd/ttrpc"
	"github.com/opencontainers/runtime-spec/specs-go"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/katadirect/katadirect/internal/kubelet"
	"github.com/katadirect/katadirect/internal/lab"
	"github.com/katadirect/katadirect/test/artifacts"
)

func TestMain(m *testing.M) { artifacts.Main(m) }

// engine is as much of CRI-O as deals with a shim: one runtime handler, with runtime_type = "vm".
type engine struct {
	*testing.T
	node *kubelet.Node
	// The settings of the handler in CRI-O's configuration.
	runtimePath, runtimeRoot, configPath string
	// containers/storage, more or less.
	rootfs, runDir string
}

func newEngine(t *testing.T) *engine {
	t.Helper()
	n := artifacts.Node(t, lab.Debian)
	dir := n.Lab.Dir
	e := &engine{
		T: t, node: n,
		runtimePath: filepath.Join(artifacts.BinDir, "containerd-shim-katadirect-v2"),
		runtimeRoot: filepath.Join(dir, "crio", "vc"),
		configPath:  filepath.Join(dir, kubelet.Handler+".toml"),
		rootfs:      filepath.Join(dir, "crio", "rootfs"),
		runDir:      filepath.Join(dir, "crio", "overlay-containers"),
	}
	e.inLab(`mkdir -p $ROOTFS/bin $ROOTFS/etc $ROOTFS/tmp $ROOTFS/proc $ROOTFS/sys $ROOTFS/dev $ROOTFS/data
cp /bin/busybox $ROOTFS/bin/ && chroot $ROOTFS /bin/busybox --install -s /bin
printf '#!/bin/sh\ntrap "exit 0" TERM INT\nwhile :; do sleep 1000000 & wait; done\n' >$ROOTFS/pause && chmod 755 $ROOTFS/pause`)
	return e
}

// inLab runs a script where CRI-O would run.
func (e *engine) inLab(script string) string {
	e.Helper()
	out, err := e.tryInLab(script)
	if err != nil {
		e.Fatal(err)
	}
	return out
}

func (e *engine) tryInLab(script string) (string, error) {
	return e.node.Lab.Run(context.WithoutCancel(e.Context()), lab.Command{ // also for cleaning up
		Name: "sh", Path: "/bin/sh", Args: []string{"-ec", script},
		// Both are set, and empty: CRI-O has no containerd to name.
		Env: []string{"ROOTFS=" + e.rootfs, "TTRPC_ADDRESS=", "GRPC_ADDRESS=", "NAMESPACE=default", "MAX_SHIM_VERSION=2"},
	})
}

// container is one of CRI-O's, a pod's own included.
type container struct {
	*engine
	id, bundle string
	spec       *specs.Spec
	task       taskapi.TTRPCTaskService
	client     *ttrpc.Client
	io         *streams
}

// create makes a container, as CRI-O does when kubelet has asked for it: a bundle, the shim, the streams, Create.
func (e *engine) create(spec *specs.Spec) *container {
	e.Helper()
	c, err := e.tryCreate(spec)
	if err != nil {
		e.Fatal(err)
	}
	return c
}

func (e *engine) tryCreate(spec *specs.Spec) (*container, error) {
	e.Helper()
	id := spec.Annotations[annotationContainerID]
	c := &container{engine: e, id: id, bundle: filepath.Join(e.runDir, id, "userdata"), spec: spec}
	if err := os.MkdirAll(c.bundle, 0o700); err != nil {
		e.Fatal(err)
	}
	data, err := json.Marshal(spec)
	if err != nil {
		e.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(c.bundle, "config.json"), data, 0o644); err != nil {
		e.Fatal(err)
	}
	if err := c.startRuntimeDaemon(); err != nil {
		return nil, err
	}
	c.io = newStreams(e.T, e.fifoDir(), id, false, spec.Process.Terminal)
	request := &taskapi.CreateTaskRequest{
		ID: id, Bundle: c.bundle, Terminal: spec.Process.Terminal,
		Stdin: c.io.stdin, Stdout: c.io.stdout, Stderr: c.io.stderr,
		// The root file system is mounted already, by containers/storage, and named in the spec alone.
		Options: e.options(),
	}
	if _, err := c.task.Create(e.Context(), request); err != nil {
		return nil, fmt.Errorf("CreateContainer failed: %w", err)
	}
	return c, nil
}

// options is what runtime_config_path becomes.
func (e *engine) options() *anypb.Any {
	value, err := proto.Marshal(&runtimeoptions.Options{ConfigPath: e.configPath})
	if err != nil {
		e.Fatal(err)
	}
	return &anypb.Any{TypeUrl: "runtimeoptions.v1.Options", Value: value}
}

// startRuntimeDaemon starts the shim in the bundle, with a fifo for its log there, and connects to what it prints.
func (c *container) startRuntimeDaemon() error {
	c.Helper()
	log := filepath.Join(c.bundle, "log")
	if err := syscall.Mkfifo(log, 0o700); err != nil {
		c.Fatal(err)
	}
	go func() {
		reader, err := os.OpenFile(log, os.O_RDONLY, 0) // waits for a writer, of which a pod's containers have none
		if err == nil {
			defer reader.Close()
			_, _ = io.Copy(os.Stderr, reader)
		}
	}()
	// Standard output and standard error together are the address.
	address, err := c.tryInLab(fmt.Sprintf(
		`cd %s; exec %s -namespace default -address "" -publish-binary /usr/bin/crio -id %s start`, c.bundle, c.runtimePath, c.id))
	if err != nil {
		return err
	}
	return c.connect(strings.TrimSpace(address))
}

func (c *container) connect(address string) error {
	path, ok := strings.CutPrefix(address, "unix://")
	if !ok {
		return fmt.Errorf("the shim printed %q", address)
	}
	conn, err := net.Dial("unix", c.node.Lab.Path(path))
	if err != nil {
		return err
	}
	c.client = ttrpc.NewClient(conn)
	c.task = taskapi.NewTTRPCTaskClient(c.client)
	c.Cleanup(func() { c.client.Close() })
	return nil
}

func (c *container) start() *container {
	c.Helper()
	if _, err := c.task.Start(c.Context(), &taskapi.StartRequest{ID: c.id}); err != nil {
		c.Fatal(err)
	}
	return c
}

func (c *container) wait(execID string) int {
	c.Helper()
	ctx, cancel := context.WithTimeout(c.Context(), 2*time.Minute)
	defer cancel()
	r, err := c.task.Wait(ctx, &taskapi.WaitRequest{ID: c.id, ExecID: execID})
	if err != nil {
		c.Fatal(err)
	}
	return int(r.GetExitStatus())
}

// execution is an exec under way.
type execution struct {
	*container
	execID string
	io     *streams
}

// exec is ExecSync: no input, and a terminal if the container has one.
func (c *container) exec(args ...string) (out string, code int) {
	c.Helper()
	return c.begin(false, c.spec.Process.Terminal, args...).end()
}

// begin starts an exec: the container's own process spec with other arguments. Whether it has a terminal, the request
// alone says; the spec is left as it is.
func (c *container) begin(stdin, terminal bool, args ...string) *execution {
	c.Helper()
	process := *c.spec.Process
	process.Args = args
	value, err := json.Marshal(&process)
	if err != nil {
		c.Fatal(err)
	}
	id := newID()
	x := &execution{container: c, execID: id, io: newStreams(c.T, c.fifoDir(), id, stdin, terminal)}
	_, err = c.task.Exec(c.Context(), &taskapi.ExecProcessRequest{
		ID: c.id, ExecID: id, Stdin: x.io.stdin, Stdout: x.io.stdout, Stderr: x.io.stderr, Terminal: terminal,
		Spec: &anypb.Any{TypeUrl: "types.containerd.io/opencontainers/runtime-spec/1/Process", Value: value},
	})
	if err != nil {
		c.Fatal(err)
	}
	if _, err := c.task.Start(c.Context(), &taskapi.StartRequest{ID: c.id, ExecID: id}); err != nil {
		c.Fatal(err)
	}
	return x
}

// resize is what becomes of a client's window that has another size.
func (x *execution) resize(width, height uint32) {
	x.Helper()
	_, err := x.task.ResizePty(x.Context(), &taskapi.ResizePtyRequest{ID: x.id, ExecID: x.execID, Width: width, Height: height})
	if err != nil {
		x.Error(err)
	}
}

// closeInput is what becomes of a client's input that has ended. One on a terminal never does.
func (x *execution) closeInput() {
	x.Helper()
	x.io.endInput()
	if _, err := x.task.CloseIO(x.Context(), &taskapi.CloseIORequest{ID: x.id, ExecID: x.execID, Stdin: true}); err != nil {
		x.Error(err)
	}
}

func (x *execution) end() (out string, code int) {
	x.Helper()
	defer x.io.close()
	code = x.wait(x.execID)
	if _, err := x.task.Delete(x.Context(), &taskapi.DeleteRequest{ID: x.id, ExecID: x.execID}); err != nil {
		x.Error(err)
	}
	return x.io.output(), code
}

// update is UpdateContainerResources.
func (c *container) update(r *specs.LinuxResources) {
	c.Helper()
	value, err := json.Marshal(r)
	if err != nil {
		c.Fatal(err)
	}
	_, err = c.task.Update(c.Context(), &taskapi.UpdateTaskRequest{
		ID:        c.id,
		Resources: &anypb.Any{TypeUrl: "types.containerd.io/opencontainers/runtime-spec/1/LinuxResources", Value: value},
	})
	if err != nil {
		c.Error(err)
	}
}

func (c *container) must(args ...string) string {
	c.Helper()
	out, code := c.exec(args...)
	if code != 0 {
		c.Errorf("%q ended with %d: %s", args, code, out)
	}
	return out
}

// stop is StopContainer: the signal, the wait, and SIGKILL if that does not help.
func (c *container) stop(grace time.Duration) {
	c.Helper()
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_, _ = c.task.Wait(c.Context(), &taskapi.WaitRequest{ID: c.id})
	}()
	for _, signal := range []syscall.Signal{syscall.SIGTERM, syscall.SIGKILL} {
		if _, err := c.task.Kill(c.Context(), &taskapi.KillRequest{ID: c.id, Signal: uint32(signal)}); err != nil {
			c.Error(err)
		}
		select {
		case <-ended:
			return
		case <-time.After(grace):
		}
	}
	c.Error("the container does not stop")
}

// remove is DeleteContainer: the streams, the task, and Shutdown after every one of them.
func (c *container) remove() {
	c.Helper()
	c.io.close()
	if _, err := c.task.Delete(c.Context(), &taskapi.DeleteRequest{ID: c.id}); err != nil {
		c.Error(err)
	}
	if _, err := c.task.Shutdown(c.Context(), &taskapi.ShutdownRequest{ID: c.id}); err != nil && !errors.Is(err, ttrpc.ErrClosed) {
		c.Error(err)
	}
	if err := os.RemoveAll(filepath.Dir(c.bundle)); err != nil {
		c.Error(err)
	}
}

// fifoDir is where the fifos of all processes are.
func (e *engine) fifoDir() string { return filepath.Join(e.runtimeRoot, "crio", "fifo") }

// streams are a process's fifos in a folder of their own, and what has come out of them.
type streams struct {
	dir, stdin, stdout, stderr string
	input                      *os.File // into stdin, if there is one

	mu      sync.Mutex
	text    strings.Builder
	readers sync.WaitGroup
}

func newStreams(t *testing.T, root, id string, stdin, terminal bool) *streams {
	t.Helper()
	if err := os.MkdirAll(root, 0o700); err != nil {
		t.Fatal(err)
	}
	dir, err := os.MkdirTemp(root, "")
	if err != nil {
		t.Fatal(err)
	}
	s := &streams{dir: dir, stdout: filepath.Join(dir, id+"-stdout")}
	names := []string{s.stdout}
	if !terminal {
		s.stderr = filepath.Join(dir, id+"-stderr")
		names = append(names, s.stderr)
	}
	if stdin {
		s.stdin = filepath.Join(dir, id+"-stdin")
		if err := syscall.Mkfifo(s.stdin, 0o700); err != nil {
			t.Fatal(err)
		}
		// CRI-O's opening waits for the shim, in the background; this does not wait, and may write at once.
		if s.input, err = os.OpenFile(s.stdin, os.O_RDWR, 0); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range names {
		if err := syscall.Mkfifo(name, 0o700); err != nil {
			t.Fatal(err)
		}
		s.readers.Go(func() {
			f, err := os.OpenFile(name, os.O_RDONLY, 0) // waits for the shim
			if err != nil {
				return
			}
			defer f.Close()
			_, _ = io.Copy(s, f)
		})
	}
	return s
}

func (s *streams) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.text.Write(p)
}

// output is everything there was, once the fifos have ended.
func (s *streams) output() string {
	s.readers.Wait()
	return s.soFar()
}

func (s *streams) soFar() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.text.String()
}

// write gives the process input.
func (s *streams) write(t *testing.T, text string) {
	t.Helper()
	if _, err := s.input.WriteString(text); err != nil {
		t.Error(err)
	}
}

func (s *streams) endInput() { _ = s.input.Close() }

func (s *streams) close() {
	if s.input != nil {
		s.endInput()
	}
	_ = os.RemoveAll(s.dir)
}

// reconnect is what a restarted CRI-O does: the address is read from the bundle.
func (c *container) reconnect() {
	c.Helper()
	c.client.Close()
	address, err := os.ReadFile(filepath.Join(c.bundle, "address"))
	if err != nil {
		c.Fatal(err)
	}
	if err := c.connect(strings.TrimSpace(string(address))); err != nil {
		c.Fatal(err)
	}
}

// awaitOutput waits until the container has printed the text.
func (c *container) awaitOutput(ctx context.Context, text string) {
	c.Helper()
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	for !strings.Contains(c.io.soFar(), text) {
		select {
		case <-ctx.Done():
			c.Fatalf("the container printed only %q", c.io.soFar())
		case <-time.After(20 * time.Millisecond):
		}
	}
}
