package task

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"
)

// Publisher takes events in the order in which containerd is to see them. Publish never blocks.
type Publisher interface {
	Publish(topic string, event proto.Message)
}

// Config is what a Service is made of.
type Config struct {
	// Boot makes the pod's machine when its first container is created.
	Boot   Boot
	Events Publisher
	// Shutdown ends the shim process. It must return at once.
	Shutdown func()
	// Connected tells whether containerd is there. Without it, it always is.
	Connected func() bool
	// Namespace is containerd's, of which the programs that output goes to are told.
	Namespace string
	Log       *slog.Logger
}

// Service answers the Task API for one pod. Its methods return domain errors; register.go turns them into codes.
type Service struct {
	boot     Boot
	events   Publisher
	shutdown func()
	// connected tells whether containerd is there.
	connected func() bool
	log       *slog.Logger
	namespace string
	// killLimit, stallLimit, returnGrace, askGrace and oomGrace are the constants of those names; tests have other ones.
	killLimit, stallLimit, returnGrace, askGrace, oomGrace time.Duration

	warnOfOptions sync.Once

	// tasks are the goroutines that watch processes and the machine. Close waits for them.
	tasks sync.WaitGroup
	// leaving is closed when the shim goes.
	leaving chan struct{}

	mu         sync.Mutex
	containers map[string]*container // guarded by mu
	owner      string                // guarded by mu; the container that the machine is made for, "" before
	pod        *pod                  // guarded by mu; nil until the machine has booted
	closing    bool                  // guarded by mu
}

// New makes the service of one shim process.
func New(c Config) *Service {
	if c.Connected == nil {
		c.Connected = func() bool { return true }
	}
	return &Service{
		boot:      c.Boot,
		events:    c.Events,
		shutdown:  c.Shutdown,
		log:       c.Log,
		connected: c.Connected,
		namespace: c.Namespace,
		killLimit: killLimit, stallLimit: stallLimit, returnGrace: returnGrace, askGrace: askGrace, oomGrace: oomGrace,
		leaving:    make(chan struct{}),
		containers: make(map[string]*container),
	}
}

// container returns the container with that id. One that is still being created does not exist for anybody yet.
func (s *Service) container(id string) (*container, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	c, ok := s.containers[id]
	if !ok {
		return nil, noContainer(id)
	}
	if _, ok := c.init.now().(creating); ok {
		return nil, fmt.Errorf("it is still being created: %w", noContainer(id))
	}
	return c, nil
}

// process returns a container and one of its processes, the first one for an exec id of "".
func (s *Service) process(id, execID string) (*container, *process, error) {
	c, err := s.container(id)
	if err != nil {
		return nil, nil, err
	}
	p, err := c.process(execID)
	if err != nil {
		return nil, nil, err
	}
	return c, p, nil
}

// reserve puts c into the table, so that no second one of the same id or, for the owner of a machine, no second
// machine can be made.
func (s *Service) reserve(c *container) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.closing:
		return ErrClosing
	case s.containers[c.id] != nil:
		return noSecond("container "+c.id, "this shim")
	case c.kind == PodContainer && s.pod == nil:
		return fmt.Errorf("the pod of container %s has no machine: %w", c.id, ErrState)
	case c.kind != PodContainer && s.owner != "":
		return noSecond("sandbox "+s.owner, "this shim")
	}
	s.containers[c.id] = c
	if c.kind == PodContainer {
		c.pod = s.pod
	} else {
		s.owner = c.id
	}
	return nil
}

// release takes c out of the table, and with the owner the machine.
func (s *Service) release(c *container) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.containers, c.id)
	if s.owner == c.id {
		s.owner, s.pod = "", nil
	}
	if len(s.containers) == 0 {
		time.AfterFunc(s.askGrace, s.endUnasked)
	}
}

// setPod gives the owner its machine.
func (s *Service) setPod(c *container, p *pod) {
	s.mu.Lock()
	defer s.mu.Unlock()
	c.pod, s.pod = p, p
}

// machine returns the pod's machine, nil if there is none.
func (s *Service) machine() *pod {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.pod
}

// close refuses everything new from now on. With idle it does so only if no container is left, and says whether.
func (s *Service) close(idle bool) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if idle && len(s.containers) > 0 {
		return false
	}
	if !s.closing {
		s.closing = true
		close(s.leaving)
	}
	return true
}

// Close ends the machine and everything in it, and returns when every exit has been published or ctx ends. It is for
// a shim that is told to go with a signal; containerd itself deletes the containers first and then asks for Shutdown.
func (s *Service) Close(ctx context.Context) error {
	s.close(false)
	if p := s.machine(); p != nil {
		if err := p.stop(ctx); err != nil {
			return fmt.Errorf("stop the machine: %w", err)
		}
	}
	done := make(chan struct{})
	go func() {
		s.tasks.Wait()
		close(done)
	}()
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("waiting for the last exits: %w", ctx.Err())
	}
}
