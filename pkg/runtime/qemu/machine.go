// Package qemu runs a pod's virtual machine with QEMU. It implements pkg/runtime/vm and is used by
// pkg/runtime/sandbox. It knows of processes, QMP and the machine's hardware; it must never know of containers,
// records, OCI or the agent's protocol.
//
// config.go says what can be asked for and command.go what QEMU is told. A Machine starts in this file and ends in
// end.go, or in kill.go if the process that started it is gone; what happens to it by itself in between is in
// watch.go. The agent's channel is in agent.go. A disk's way in is in plug.go, out in unplug.go; the host's side of it
// in backing.go, the guest's in address.go, and what is plugged at the moment in disks.go. Processors and memory come in by
// grow.go, and never leave.
package qemu

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"

	"github.com/katadirect/katadirect/internal/accel"
	"github.com/katadirect/katadirect/internal/rollback"
	"github.com/katadirect/katadirect/pkg/runtime/qmp"
	"github.com/katadirect/katadirect/pkg/runtime/vm"
)

var errNotStarted = errors.New("virtual machine is not started")

// Machine is one QEMU process; see vm.Machine for its life.
type Machine struct {
	cfg   Config
	agent agentChannel
	disks disks
	// growth is what it was given beside disks since it was started.
	growth growth

	// life serialises Start and Stop.
	life sync.Mutex

	mu      sync.Mutex // guards what follows
	run     *running   // nil before Start
	stopped bool       // Stop was called

	done   chan struct{} // closed when QEMU has ended and nothing of the machine runs any more
	reason error         // why; written before done is closed, nil after Stop
}

// running is what a started machine has. Its fields do not change.
type running struct {
	process *process
	qmp     *qmp.Client
	console *lines
	stderr  *lines
	watch   *watch
}

var _ vm.Machine = (*Machine)(nil)

// New describes a machine. Nothing is started and nothing is on disk until Start.
func New(cfg Config) *Machine {
	return &Machine{cfg: cfg, done: make(chan struct{})}
}

// Start implements vm.Machine. When QEMU does not come up, the error holds QEMU's own words. A machine is started
// once.
func (m *Machine) Start(ctx context.Context) (err error) {
	m.life.Lock()
	defer m.life.Unlock()
	if err := m.startable(); err != nil {
		return err
	}
	if m.cfg, err = m.cfg.withDefaults(); err != nil {
		return fmt.Errorf("virtual machine: %w", err)
	}
	if m.cfg.Accel == "" {
		result, err := accel.Detect(ctx, KVMTrial(m.cfg))
		if err != nil {
			return fmt.Errorf("virtual machine: %w", err)
		}
		m.cfg.Accel = result.Accel
	}
	var undo rollback.Stack
	defer undo.OnError(ctx, &err)
	if err := m.makeDir(&undo); err != nil {
		return fmt.Errorf("virtual machine: %w", err)
	}
	m.disks.init(m.cfg)
	run, err := m.launch(ctx)
	if err != nil {
		return fmt.Errorf("virtual machine: %w", err)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.run = run
	return nil
}

func (m *Machine) startable() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.run != nil || m.stopped {
		return errors.New("a virtual machine is started only once")
	}
	return nil
}

// makeDir makes the machine's folder, or uses the one in which the caller has put a socket already.
func (m *Machine) makeDir(undo *rollback.Stack) error {
	if err := os.MkdirAll(filepath.Dir(m.cfg.Dir), 0o700); err != nil {
		return err
	}
	err := os.Mkdir(m.cfg.Dir, 0o700)
	if err == nil {
		undo.Push("remove the machine's folder", func(context.Context) error { return os.RemoveAll(m.cfg.Dir) })
		return nil
	}
	if !errors.Is(err, os.ErrExist) {
		return err
	}
	if pid, alive := livingQEMU(m.cfg.Dir); alive {
		return fmt.Errorf("machine folder %s belongs to process %d", m.cfg.Dir, pid)
	}
	for _, path := range []string{m.cfg.pidFile(), m.cfg.agentSocket()} {
		if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
		undo.Push("remove "+path, func(context.Context) error { return ignoreMissing(os.Remove(path)) })
	}
	return nil
}

func ignoreMissing(err error) error {
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	return err
}

// launch starts QEMU and waits until it answers.
func (m *Machine) launch(ctx context.Context) (_ *running, err error) {
	wires, err := m.connectWires()
	if err != nil {
		return nil, err
	}
	defer wires.closeTheirs()
	console := newLines(m.toConsole)
	stderr := newLines(func(line []byte) { m.cfg.Log.Warn("QEMU says", "message", string(line)) })
	process, err := startProcess(m.cfg.QEMU, arguments(m.cfg, wires.fds), wires.theirs, m.cfg.Namespace, stderr)
	if err != nil {
		return nil, errors.Join(err, wires.closeOurs())
	}
	wires.closeTheirs() // or QEMU's death would not end the connections

	r := &running{process: process, console: console, stderr: stderr}
	client, err := qmp.NewClient(ctx, wires.qmp) // fails at once when QEMU ends
	if err != nil {
		process.kill()
		<-process.exited
		_ = wires.console.Close()
		return nil, r.startError(ctx, err)
	}
	r.qmp = client
	m.agent.cid = wires.fds.cid
	r.watch = startWatch(m.cfg, client)
	go m.attend(r, wires.console)
	return r, nil
}

// startError explains why QEMU did not come up, best in its own words.
func (r *running) startError(ctx context.Context, err error) error {
	words := r.stderr.lastWords(quoted)
	switch {
	case ctx.Err() != nil:
		return fmt.Errorf("QEMU did not answer in time: %w %s", context.Cause(ctx), words)
	case words != "":
		return fmt.Errorf("QEMU did not start: %s", words)
	}
	return fmt.Errorf("QEMU did not start: %s: %w", r.process.ending(), err)
}

func (m *Machine) toConsole(line []byte) {
	if m.cfg.Console == nil {
		m.cfg.Log.Debug("guest console", "line", string(line))
		return
	}
	_, _ = m.cfg.Console.Write(append(line, '\n')) // who reads the console is not the machine's concern
}

// PID implements vm.Machine.
func (m *Machine) PID() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.run == nil {
		return 0
	}
	return m.run.process.pid
}

// Done implements vm.Machine.
func (m *Machine) Done() <-chan struct{} { return m.done }

// Err implements vm.Machine.
func (m *Machine) Err() error {
	select {
	case <-m.done:
		return m.reason
	default:
		return nil
	}
}

// control returns the running machine, or why there is none.
func (m *Machine) control() (*running, error) {
	select {
	case <-m.done:
		return nil, m.gone()
	default:
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.run == nil {
		return nil, errNotStarted
	}
	return m.run, nil
}
