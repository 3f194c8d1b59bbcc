package container

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path"
	"sync"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/katadirect/katadirect/internal/rollback"
	"github.com/katadirect/katadirect/pkg/agent/process"
	"github.com/katadirect/katadirect/pkg/agent/reaper"
	"github.com/katadirect/katadirect/pkg/agentproto"
)

// A pod's pause container does nothing but wait, and hold namespaces that in
// this machine the agent holds. So the agent stands in for it, which saves the
// pod's start two calls of crun. Should somebody want what only a process has,
// its pid namespace or another process beside it, crun makes the container
// then, and the agent steps back.

// annotationType is how a shim says which container is the pause container.
const annotationType = "io.katacontainers.pkg.oci.container_type"

// IsPause says whether the agent can stand in for the container: it is the
// pod's own, and runs "pause" and nothing else. Kernel parameters of the ipc
// and uts namespaces are crun's to set, in the course of making it.
func IsPause(spec *specs.Spec) bool {
	return spec.Annotations[annotationType] == "pod_sandbox" &&
		spec.Process != nil && !spec.Process.Terminal &&
		len(spec.Process.Args) == 1 && path.Base(spec.Process.Args[0]) == "pause" &&
		spec.Linux != nil && !hasOtherSysctls(spec.Linux)
}

// pause is the first process of a container that the agent stands in for.
type pause struct {
	spec *specs.Spec
	done chan struct{}

	mu     sync.Mutex
	status int              // valid once done is closed
	real   *process.Process // nil as long as the agent stands in for it
	exited bool
}

var _ process.Child = (*pause)(nil)

// CreatePause makes a pause container of which there is nothing but a cgroup
// so far. Otherwise it is as Create.
func (r *Runtime) CreatePause(ctx context.Context, id string, spec *specs.Spec, s Surroundings) (_ *Container, err error) {
	var undo rollback.Stack
	defer undo.OnError(ctx, &err)

	if err := r.prepare(&undo, id, spec, s); err != nil {
		return nil, err
	}
	if err := os.Mkdir(r.cgroup(id), 0o755); err != nil {
		return nil, fmt.Errorf("create container %s: %w", id, err)
	}
	undo.Push("remove the cgroup", func(ctx context.Context) error { return r.removeCgroup(ctx, id) })
	// Nobody holds the other ends of its streams, so they end at once.
	streams, ends, err := process.NewPipes(r.PipeSize)
	if err != nil {
		return nil, err
	}
	ends.Close()
	p := &pause{spec: spec, done: make(chan struct{})}
	first := process.New(p, streams)
	return &Container{
		ID: id, runtime: r, init: first, pause: p, message: agentproto.DefaultMessagePath, entries: map[string]*entry{id: newEntry(first)},
	}, nil
}

// Realize has crun make the container, if the agent stands in for it.
func (c *Container) Realize(ctx context.Context) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.pause.standsIn() {
		return nil
	}
	if c.removed || c.init.Exited() {
		return fmt.Errorf("container %s: %w: it has ended", c.ID, ErrState)
	}
	pinned := pin(c.pause.spec)
	real, err := c.runtime.launch(ctx, c.ID, "init", false, "create", "--bundle", c.runtime.bundle(c.ID))
	if err == nil && c.started {
		if err = c.runtime.crun(ctx, c.ID, process.Ends{}, "start", c.ID); err != nil {
			err = errors.Join(err, real.Close())
		}
	}
	if err != nil {
		pinned.release()
		// The cgroup goes too, and the next try makes it again.
		return errors.Join(fmt.Errorf("create container %s: %w", c.ID, err), c.runtime.delete(context.WithoutCancel(ctx), c.ID))
	}
	c.pinned = pinned
	c.pause.become(real)
	return nil
}

// standsIn says whether there is no process. Without a pause it is false.
func (p *pause) standsIn() bool {
	if p == nil {
		return false
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.real == nil
}

// become steps back for the process that crun has made. One that was told to
// end meanwhile is not to live on in it.
func (p *pause) become(real *process.Process) {
	p.mu.Lock()
	p.real = real
	exited := p.exited
	p.mu.Unlock()
	if exited {
		_ = real.Signal(unix.SIGKILL) // it can only be gone already
	}
	go func() {
		<-real.Done()
		status, _ := real.Wait(context.Background())
		real.Close()
		p.exit(status)
	}()
}

func (p *pause) exit(status int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.exited {
		p.exited, p.status = true, status
		close(p.done)
	}
}

// PID implements process.Child; it is 0 as long as there is none.
func (p *pause) PID() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.real == nil {
		return 0
	}
	return p.real.PID()
}

// Done implements process.Child.
func (p *pause) Done() <-chan struct{} { return p.done }

// Status implements process.Child.
func (p *pause) Status() int {
	<-p.done
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.status
}

// Signal implements process.Child. It does what the pause program does with a
// signal: it ends in order by two of them, and disregards the others.
func (p *pause) Signal(sig unix.Signal) error {
	p.mu.Lock()
	real, exited := p.real, p.exited
	p.mu.Unlock()
	switch {
	case exited:
		return reaper.ErrExited
	case real != nil:
		return real.Signal(sig)
	case sig == unix.SIGKILL:
		p.exit(128 + int(sig))
	case sig == unix.SIGTERM, sig == unix.SIGINT:
		p.exit(0)
	}
	return nil
}
