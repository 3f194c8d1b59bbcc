package task

import (
	"log/slog"
	"sync"
	"sync/atomic"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// process is a container's first process or an exec: one life and three streams.
type process struct {
	*life
	container string
	exec      string // "" for the container's first process
	stdio     *stdio
	spec      *specs.Process // of an exec
	log       *slog.Logger

	insist sync.Once   // at the first SIGKILL
	killed atomic.Bool // somebody has asked for SIGKILL
}

// id is what containerd's events call the process.
func (p *process) id() string {
	if p.exec == "" {
		return p.container
	}
	return p.exec
}

// container is one container of the pod.
type container struct {
	id     string
	bundle string
	kind   Kind
	pod    *pod
	init   *process
	// message is the host's file for its last words, "" without one.
	message string

	removed bool // from the machine, or with it; of who has brought init to deleting

	oom     chan struct{} // closed when a process of it was killed for want of memory
	oomOnce sync.Once

	mu    sync.Mutex
	execs map[string]*process // guarded by mu
}

// process returns the container's process of that exec id.
func (c *container) process(execID string) (*process, error) {
	if execID == "" {
		return c.init, nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	p, ok := c.execs[execID]
	if !ok {
		return nil, noExec(c.id, execID)
	}
	return p, nil
}

// reserve takes the exec's id; nobody else can until forget.
func (c *container) reserve(p *process) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, ok := c.execs[p.exec]; ok {
		return noSecond("process "+p.exec, "container "+c.id)
	}
	c.execs[p.exec] = p
	return nil
}

func (c *container) forget(p *process) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.execs, p.exec)
}

// allExecs returns the execs there are now.
func (c *container) allExecs() []*process {
	c.mu.Lock()
	defer c.mu.Unlock()
	all := make([]*process, 0, len(c.execs))
	for _, p := range c.execs {
		all = append(all, p)
	}
	return all
}
