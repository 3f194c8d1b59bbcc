package container

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/katadirect/katadirect/internal/rollback"
	"github.com/katadirect/katadirect/pkg/agent/process"
)

// Container is one of the pod's containers. Its methods may be called from
// several goroutines.
type Container struct {
	ID string

	runtime *Runtime
	oom     *oomWatch
	init    *process.Process
	pinned  pins
	pause   *pause // nil if crun has made the container from the start
	message string // where in the container its last words are

	mu      sync.Mutex
	started bool
	removed bool
	entries map[string]*entry // by process id; the container's own is its init
}

// Create makes the container and its first process, which waits for Start.
// spec is changed. It undoes everything on error.
func (r *Runtime) Create(ctx context.Context, id string, spec *specs.Spec, s Surroundings) (_ *Container, err error) {
	var undo rollback.Stack
	defer undo.OnError(ctx, &err)

	message := messagePath(spec)
	if err := r.prepare(&undo, id, spec, s); err != nil {
		return nil, err
	}
	pinned := pin(spec)
	undo.Push("let go of the shared folders", func(context.Context) error { pinned.release(); return nil })
	undo.Push("remove the container from crun", func(ctx context.Context) error { return r.delete(ctx, id) })
	first, err := r.launch(ctx, id, "init", spec.Process.Terminal, "create", "--bundle", r.bundle(id))
	if err != nil {
		return nil, fmt.Errorf("create container %s: %w", id, err)
	}
	return &Container{
		ID: id, runtime: r, init: first, pinned: pinned, message: message, entries: map[string]*entry{id: newEntry(first)},
	}, nil
}

// prepare checks and changes the specification and makes the container's
// folder, with the specification in it.
func (r *Runtime) prepare(undo *rollback.Stack, id string, spec *specs.Spec, s Surroundings) error {
	if err := CheckID(id); err != nil {
		return fmt.Errorf("container %q: %w", id, err)
	}
	if err := adapt(spec, id, r.cgroupsPath(), s); err != nil {
		return err
	}
	if err := applySysctls(networkSysctls(spec.Linux)); err != nil {
		return err
	}
	// The folder is made here and by nobody else: an existing one is another
	// container, or something that must not be taken for one.
	if err := os.Mkdir(r.bundle(id), 0o700); err != nil {
		if errors.Is(err, os.ErrExist) {
			err = fmt.Errorf("container %s: %w", id, ErrExists)
		}
		return err
	}
	undo.Push("remove the container's folder", func(context.Context) error { return os.RemoveAll(r.bundle(id)) })
	return writeJSON(filepath.Join(r.bundle(id), "config.json"), spec)
}

// cgroupsPath is Cgroups as an OCI specification has it, below the mount of
// the cgroup file system.
func (r *Runtime) cgroupsPath() string { return strings.TrimPrefix(r.Cgroups, cgroupMount) }

// Start lets the first process run. notifyOOM, if not nil, is called after
// each time that the kernel has killed one of the container's processes for
// want of memory.
func (c *Container) Start(ctx context.Context, notifyOOM func()) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.started || c.removed || c.init.Exited() {
		return fmt.Errorf("start container %s: %w", c.ID, ErrState)
	}
	if notifyOOM != nil {
		watch, err := watchOOM(c.runtime.cgroup(c.ID), notifyOOM)
		if err != nil {
			return fmt.Errorf("start container %s: %w", c.ID, err)
		}
		c.oom = watch
	}
	if !c.pause.standsIn() {
		if err := c.runtime.crun(ctx, c.ID, process.Ends{}, "start", c.ID); err != nil {
			return fmt.Errorf("start container %s: %w", c.ID, err)
		}
	}
	c.started = true
	return nil
}

// PID is the first process's id in the agent's own namespace; 0 if the agent
// stands in for it.
func (c *Container) PID() int { return c.init.PID() }

// Exited says whether the first process has.
func (c *Container) Exited() bool { return c.init.Exited() }

// KillAll kills every process in the container's cgroup.
func (c *Container) KillAll() error {
	err := c.runtime.killAll(c.ID)
	if c.pause.standsIn() {
		err = errors.Join(err, c.init.Signal(unix.SIGKILL))
	}
	return err
}

// killAll kills every process of a container; there may be none, and no
// container.
func (r *Runtime) killAll(id string) error {
	err := os.WriteFile(filepath.Join(r.cgroup(id), "cgroup.kill"), []byte("1"), 0)
	if err != nil && !errors.Is(err, os.ErrNotExist) && !errors.Is(err, unix.ENODEV) {
		return fmt.Errorf("kill all processes of container %s: %w", id, err)
	}
	return nil
}

// Remove ends the container and everything of it. It is idempotent, and may be
// called again after it failed.
func (c *Container) Remove(ctx context.Context) error {
	if err := c.KillAll(); err != nil {
		return err
	}
	// A process that crun has made and that has not moved into the cgroup yet
	// is reached by this one.
	if err := c.init.Signal(unix.SIGKILL); err != nil {
		return fmt.Errorf("remove container %s: %w", c.ID, err)
	}
	if _, err := c.init.Wait(ctx); err != nil {
		return fmt.Errorf("remove container %s: its first process does not end: %w", c.ID, err)
	}
	// Who has crun make a pause container after all has the lock meanwhile, and
	// what crun has made by then is deleted here.
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.runtime.delete(ctx, c.ID); err != nil {
		return err
	}
	c.removed = true
	c.pinned.release()
	c.pinned = nil
	if c.oom != nil {
		c.oom.stop()
	}
	for id, e := range c.entries {
		e.discard()
		delete(c.entries, id)
	}
	if err := os.RemoveAll(c.runtime.bundle(c.ID)); err != nil {
		return fmt.Errorf("remove container %s: %w", c.ID, err)
	}
	return nil
}

// deleteTimeout bounds crun's delete, which waits for nobody.
const deleteTimeout = 30 * time.Second

// delete has crun forget a container, which it may not know.
func (r *Runtime) delete(ctx context.Context, id string) error {
	if err := r.killAll(id); err != nil {
		return err
	}
	if _, err := os.Stat(filepath.Join(r.State, id)); errors.Is(err, os.ErrNotExist) {
		return r.removeCgroup(ctx, id)
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), deleteTimeout)
	defer cancel()
	if err := r.crun(ctx, id, process.Ends{}, "delete", "--force", id); err != nil {
		return fmt.Errorf("delete container %s: %w", id, err)
	}
	slog.Debug("crun has deleted the container", "container", id)
	return r.removeCgroup(ctx, id)
}
