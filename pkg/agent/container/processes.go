package container

import (
	"context"
	"fmt"
	"path/filepath"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/katadirect/katadirect/pkg/agent/process"
)

// linger is how long the streams of a process are kept for a reader after the
// process was waited for.
const linger = 10 * time.Second

// entry is a process under the id by which it is asked for.
type entry struct {
	process *process.Process
	// waited is set when its status was fetched. From then on it is gone for
	// everybody but the readers of what it wrote.
	waited bool
	expiry *time.Timer
}

func newEntry(p *process.Process) *entry { return &entry{process: p} }

func (e *entry) discard() {
	if e.expiry != nil {
		e.expiry.Stop()
	}
	e.process.Close()
}

// Exec starts one more process in the container, under an id of its own.
func (c *Container) Exec(ctx context.Context, id string, spec *specs.Process) error {
	if err := CheckID(id); err != nil {
		return fmt.Errorf("process %q: %w", id, err)
	}
	if spec == nil || len(spec.Args) == 0 {
		return fmt.Errorf("process %s: %w: no command to run", id, ErrSpec)
	}
	if err := c.Realize(ctx); err != nil {
		return err
	}
	if err := c.reserve(id); err != nil {
		return err
	}
	adaptProcess(spec)
	p, err := c.exec(ctx, id, spec)

	c.mu.Lock()
	defer c.mu.Unlock()
	if err != nil {
		delete(c.entries, id)
		return fmt.Errorf("exec in container %s: %w", c.ID, err)
	}
	c.entries[id] = newEntry(p)
	if c.removed {
		c.entries[id].discard()
		delete(c.entries, id)
		return fmt.Errorf("exec in container %s: %w", c.ID, ErrState)
	}
	return nil
}

// reserve takes an id; the entry stays nil until the process is there.
func (c *Container) reserve(id string) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.started || c.removed || c.init.Exited() {
		return fmt.Errorf("exec in container %s: %w: it is not running", c.ID, ErrState)
	}
	if _, taken := c.entries[id]; taken {
		return fmt.Errorf("process %s: %w", id, ErrExists)
	}
	c.entries[id] = nil
	return nil
}

func (c *Container) exec(ctx context.Context, id string, spec *specs.Process) (*process.Process, error) {
	file := filepath.Join(c.runtime.bundle(c.ID), "exec-"+id+".json")
	if err := writeJSON(file, spec); err != nil {
		return nil, err
	}
	defer removeFile(file)
	return c.runtime.launch(ctx, c.ID, "exec-"+id, spec.Terminal, "exec", "--detach", "--process", file)
}

// Process returns a process by its id; the container's own id, or none, stands
// for the first. ErrNoProcess for one that was waited for already.
func (c *Container) Process(id string) (*process.Process, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	e, err := c.lookup(id)
	if err == nil && e.waited {
		err = fmt.Errorf("process %s: %w: its status was fetched", id, ErrNoProcess)
	}
	if err != nil {
		return nil, err
	}
	return e.process, nil
}

// Output returns a process whose output is to be read, also one that was
// waited for a moment ago.
func (c *Container) Output(id string) (*process.Process, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	e, err := c.lookup(id)
	if err != nil {
		return nil, err
	}
	if e.waited {
		e.expiry.Reset(linger)
	}
	return e.process, nil
}

// lookup finds an entry. The caller holds c.mu.
func (c *Container) lookup(id string) (*entry, error) {
	if id == "" {
		id = c.ID
	}
	e := c.entries[id]
	if e == nil {
		return nil, fmt.Errorf("process %s of container %s: %w", id, c.ID, ErrNoProcess)
	}
	return e, nil
}

// Wait waits for a process's exit, returns its status as process.Wait does,
// and forgets the process, but for what readers still have to fetch.
func (c *Container) Wait(ctx context.Context, id string) (int, error) {
	p, err := c.Process(id)
	if err != nil {
		return 0, err
	}
	status, err := p.Wait(ctx)
	if err != nil {
		return 0, err
	}
	if id == "" {
		id = c.ID
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.oom != nil && p == c.init {
		c.oom.look() // so that it is known before the exit is
	}
	if e := c.entries[id]; e != nil && e.process == p && !e.waited {
		c.retire(id, e)
	}
	return status, nil
}

// retire marks an entry as waited for, and has it removed when nobody reads
// from it any more. The caller holds c.mu.
func (c *Container) retire(id string, e *entry) {
	e.waited = true
	if e.process.Drained() {
		e.discard()
		delete(c.entries, id)
		return
	}
	e.expiry = time.AfterFunc(linger, func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		if c.entries[id] != e {
			return
		}
		if e.process.BeingRead() {
			e.expiry.Reset(linger) // by one who may take any time to make room
			return
		}
		e.process.Close()
		delete(c.entries, id)
	})
}

// Signal sends a signal to a process. No id and SIGKILL means every process of
// the container. SIGTERM to a first process that has not asked for it becomes
// SIGKILL: the kernel would drop it, as it does for the first process of any
// pid namespace.
func (c *Container) Signal(id string, sig unix.Signal) error {
	if id == "" && sig == unix.SIGKILL {
		return c.KillAll()
	}
	p, err := c.Process(id)
	if err != nil {
		return err
	}
	if p == c.init && sig == unix.SIGTERM && !c.pause.standsIn() && !handles(p.PID(), sig) {
		sig = unix.SIGKILL
	}
	return p.Signal(sig)
}
