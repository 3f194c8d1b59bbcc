package task

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"sync"
	"sync/atomic"
	"syscall"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/katadirect/katadirect/pkg/agentproto"
)

// fakeSandbox stands in for a machine: its "guest" is this host, its processes are real ones behind real pipes. It
// behaves as the agent does where that matters to the service: a process is forgotten when it has been waited for,
// and output that has not been read by then is lost.
type fakeSandbox struct {
	hooks hooks
	done  chan struct{}
	oom   chan string
	stats *agentproto.StatsContainerResponse
	lie   int    // what is told of every exit, if not 0
	words string // what every container has left

	mute    bool         // reads of output are never answered
	deaf    atomic.Bool  // signals change nothing
	reading atomic.Int64 // such reads

	mu        sync.Mutex
	specs     map[string]*specs.Process // created containers by id
	processes map[string]*fakeProcess   // by "id/exec"
	calls     []string
	err       error
	ended     bool
}

// hooks run inside the calls of the same name, before they do anything; an error fails the call.
type hooks struct {
	boot, create, start, exec, signal, wait, words, remove, stop func(ctx context.Context, id string) error
}

func run(hook func(context.Context, string) error, ctx context.Context, id string) error {
	if hook == nil {
		return nil
	}
	return hook(ctx, id)
}

type fakeProcess struct {
	cmd            *exec.Cmd
	stdin          io.WriteCloser
	stdout, stderr *os.File
	ended          chan struct{}
}

func newFakeSandbox(h hooks) *fakeSandbox {
	return &fakeSandbox{
		hooks: h, done: make(chan struct{}), oom: make(chan string),
		specs: make(map[string]*specs.Process), processes: make(map[string]*fakeProcess),
	}
}

func (f *fakeSandbox) note(format string, args ...any) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.calls = append(f.calls, fmt.Sprintf(format, args...))
}

func (f *fakeSandbox) called() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return append([]string(nil), f.calls...)
}

func (f *fakeSandbox) CreateContainer(ctx context.Context, r ContainerRequest) error {
	if err := run(f.hooks.create, ctx, r.ID); err != nil {
		return err
	}
	f.note("create %s", r.ID)
	f.mu.Lock()
	defer f.mu.Unlock()
	f.specs[r.ID] = r.Spec.Process
	return nil
}

func (f *fakeSandbox) StartContainer(ctx context.Context, id string) error {
	if err := run(f.hooks.start, ctx, id); err != nil {
		return err
	}
	f.mu.Lock()
	spec := f.specs[id]
	f.mu.Unlock()
	return f.launch(id, "", spec)
}

func (f *fakeSandbox) Exec(ctx context.Context, id, execID string, p *specs.Process) error {
	if err := run(f.hooks.exec, ctx, execID); err != nil {
		return err
	}
	return f.launch(id, execID, p)
}

func (f *fakeSandbox) launch(id, execID string, spec *specs.Process) error {
	cmd := exec.Command(spec.Args[0], spec.Args[1:]...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return err
	}
	stdout, stdoutW, err := os.Pipe()
	if err != nil {
		return err
	}
	stderr, stderrW, err := os.Pipe()
	if err != nil {
		return err
	}
	defer stdoutW.Close()
	defer stderrW.Close()
	cmd.Stdout, cmd.Stderr = stdoutW, stderrW
	if err := cmd.Start(); err != nil {
		return err
	}
	p := &fakeProcess{cmd: cmd, stdin: stdin, stdout: stdout, stderr: stderr, ended: make(chan struct{})}
	go func() {
		_ = cmd.Wait()
		close(p.ended)
	}()
	f.mu.Lock()
	defer f.mu.Unlock()
	f.processes[id+"/"+execID] = p
	return nil
}

func (f *fakeSandbox) find(id, execID string) (*fakeProcess, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	p, ok := f.processes[id+"/"+execID]
	if !ok {
		return nil, fmt.Errorf("guest: no process %s/%s", id, execID)
	}
	return p, nil
}

func (f *fakeSandbox) Signal(ctx context.Context, id, execID string, sig syscall.Signal, all bool) error {
	f.note("signal %s/%s %d all=%v", id, execID, sig, all)
	if err := run(f.hooks.signal, ctx, id); err != nil {
		return err
	}
	p, err := f.find(id, execID)
	if err != nil {
		return err
	}
	if f.deaf.Load() {
		return nil
	}
	pid := p.cmd.Process.Pid
	if all {
		pid = -pid
	}
	return syscall.Kill(pid, sig)
}

func (f *fakeSandbox) Wait(ctx context.Context, id, execID string) (int, error) {
	if err := run(f.hooks.wait, ctx, id); err != nil {
		return 0, err
	}
	p, err := f.find(id, execID)
	if err != nil {
		return 0, err
	}
	select {
	case <-p.ended:
	case <-ctx.Done():
		return 0, ctx.Err()
	}
	f.mu.Lock()
	delete(f.processes, id+"/"+execID)
	f.mu.Unlock()
	p.close()
	if f.lie != 0 {
		return f.lie, nil
	}
	status := p.cmd.ProcessState.Sys().(syscall.WaitStatus)
	if status.Signaled() {
		return 128 + int(status.Signal()), nil
	}
	return status.ExitStatus(), nil
}

func (p *fakeProcess) close() {
	p.stdin.Close()
	p.stdout.Close()
	p.stderr.Close()
}

func (f *fakeSandbox) Stdin(_ context.Context, id, execID string) io.WriteCloser {
	p, _ := f.find(id, execID)
	return p.stdin
}

// silence is a stream whose reads wait for ever.
type silence struct {
	ctx     context.Context
	reading *atomic.Int64
}

func (s silence) Read([]byte) (int, error) {
	s.reading.Add(1)
	defer s.reading.Add(-1)
	<-s.ctx.Done()
	return 0, s.ctx.Err()
}

func (f *fakeSandbox) Stdout(ctx context.Context, id, execID string) io.Reader {
	if f.mute {
		return silence{ctx, &f.reading}
	}
	p, _ := f.find(id, execID)
	return p.stdout
}

func (f *fakeSandbox) Stderr(ctx context.Context, id, execID string) io.Reader {
	if f.mute {
		return silence{ctx, &f.reading}
	}
	p, _ := f.find(id, execID)
	return p.stderr
}

func (f *fakeSandbox) ResizeTerminal(_ context.Context, id, execID string, w, h uint32) error {
	f.note("resize %s/%s %dx%d", id, execID, w, h)
	return nil
}

func (f *fakeSandbox) Pause(_ context.Context, id string) error  { f.note("pause %s", id); return nil }
func (f *fakeSandbox) Resume(_ context.Context, id string) error { f.note("resume %s", id); return nil }

func (f *fakeSandbox) Update(_ context.Context, id string, r *specs.LinuxResources) error {
	f.note("update %s memory %d", id, *r.Memory.Limit)
	return nil
}

func (f *fakeSandbox) Stats(context.Context, string) (*agentproto.StatsContainerResponse, error) {
	return f.stats, nil
}

func (f *fakeSandbox) LastWords(ctx context.Context, id string) (string, error) {
	f.note("last words %s", id)
	return f.words, run(f.hooks.words, ctx, id)
}

func (f *fakeSandbox) NextOOM(ctx context.Context) (string, error) {
	select {
	case id := <-f.oom:
		return id, nil
	case <-ctx.Done():
		return "", ctx.Err()
	}
}

func (f *fakeSandbox) RemoveContainer(ctx context.Context, id string) error {
	if err := run(f.hooks.remove, ctx, id); err != nil {
		return err
	}
	f.note("remove %s", id)
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.specs, id)
	return nil
}

func (f *fakeSandbox) PID() int              { return os.Getpid() }
func (f *fakeSandbox) Done() <-chan struct{} { return f.done }

func (f *fakeSandbox) Err() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.err
}

func (f *fakeSandbox) Stop(ctx context.Context) error {
	if err := run(f.hooks.stop, ctx, ""); err != nil {
		return err
	}
	f.note("stop")
	f.end(nil)
	return nil
}

// die is the machine's end for a reason.
func (f *fakeSandbox) die(reason error) { f.end(reason) }

func (f *fakeSandbox) end(reason error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.ended {
		return
	}
	f.ended, f.err = true, reason
	for _, p := range f.processes {
		_ = syscall.Kill(-p.cmd.Process.Pid, syscall.SIGKILL)
	}
	close(f.done)
}

var errInjected = errors.New("injected failure")
