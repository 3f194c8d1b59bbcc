package sandbox

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"github.com/katadirect/katadirect/internal/rollback"
	"github.com/katadirect/katadirect/pkg/agent/container"
	"github.com/katadirect/katadirect/pkg/agentproto"
)

// CreateContainer mounts what the container needs and makes it. It undoes
// everything on error.
func (s *Sandbox) CreateContainer(ctx context.Context, req *agentproto.CreateContainerRequest) error {
	m, err := s.reserve(req.GetContainerId())
	if err != nil {
		return err
	}
	defer close(m.settled)
	return s.create(ctx, m, req)
}

func (s *Sandbox) create(ctx context.Context, m *member, req *agentproto.CreateContainerRequest) (err error) {
	var undo rollback.Stack
	defer undo.OnError(ctx, &err)

	id := req.GetContainerId()
	undo.Push("forget the container", func(context.Context) error { s.forget(id); return nil })
	spec := agentproto.SpecFromProto(req.GetOCI())
	if spec == nil {
		return fmt.Errorf("create container %s: %w: none was sent", id, container.ErrSpec)
	}
	s.shares.take(m, sharedPaths(spec, req.GetStorages()))
	undo.Push("forget its part of the share", func(context.Context) error { s.shares.drop(m); return nil })
	if err := s.addDevices(ctx, spec, req.GetDevices()); err != nil {
		return fmt.Errorf("create container %s: %w", id, err)
	}
	var mounted []string
	for _, st := range req.GetStorages() {
		if err := s.Mounts.Add(ctx, st); err != nil {
			return fmt.Errorf("create container %s: %w", id, err)
		}
		undo.Push("release storage", func(ctx context.Context) error { return s.Mounts.Release(ctx, st.GetMountPoint()) })
		mounted = append(mounted, st.GetMountPoint())
	}
	around, err := s.surroundings(ctx, req.GetSandboxPidns(), spec.Annotations[annotationPIDsOf])
	if err != nil {
		return fmt.Errorf("create container %s: %w", id, err)
	}
	create := s.Runtime.Create
	if container.IsPause(spec) {
		create = s.Runtime.CreatePause
	}
	c, err := create(ctx, id, spec, around)
	if err != nil {
		return err
	}
	undo.Push("remove the container", c.Remove)
	if err := s.enter(id, c, mounted); err != nil {
		return err
	}
	slog.Info("container is created", "container", id, "pid", c.PID())
	return nil
}

// reserve takes an id before anything is done for it.
func (s *Sandbox) reserve(id string) (*member, error) {
	if err := container.CheckID(id); err != nil {
		return nil, fmt.Errorf("container %q: %w", id, err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.state != alive {
		return nil, fmt.Errorf("create container %s: %w", id, ErrState)
	}
	if _, taken := s.containers[id]; taken {
		return nil, fmt.Errorf("container %s: %w", id, container.ErrExists)
	}
	m := &member{settled: make(chan struct{})}
	s.containers[id] = m
	return m, nil
}

func (s *Sandbox) forget(id string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.containers, id)
}

// enter makes a reserved container known, unless the sandbox has ended since.
func (s *Sandbox) enter(id string, c *container.Container, storages []string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.state != alive {
		return fmt.Errorf("create container %s: %w", id, ErrState)
	}
	if s.first == nil {
		s.first = c
	}
	m := s.containers[id]
	m.container, m.storages = c, storages
	return nil
}

// Container returns a container.
func (s *Sandbox) Container(id string) (*container.Container, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	m := s.containers[id]
	if m == nil || m.container == nil {
		return nil, fmt.Errorf("container %q: %w", id, ErrNoContainer)
	}
	return m.container, nil
}

// StartContainer lets the container's first process run.
func (s *Sandbox) StartContainer(ctx context.Context, id string) error {
	c, err := s.Container(id)
	if err != nil {
		return err
	}
	// The pause container has no memory worth watching.
	var notify func()
	if id != s.id {
		notify = func() { s.reportOOM(id) }
	}
	begin := time.Now()
	if err := c.Start(ctx, notify); err != nil {
		return err
	}
	slog.Info("container is started", "container", id, "took", time.Since(begin))
	return nil
}

// RemoveContainer ends a container and unmounts what was mounted for it alone.
// When it has returned, its devices may be unplugged. It may be called again
// after it failed, and goes on where it stopped.
func (s *Sandbox) RemoveContainer(ctx context.Context, id string) error {
	m, err := s.whole(ctx, id)
	if err != nil {
		return err
	}
	s.ThawFor(id, "a container that uses the volume is being removed")
	if err = m.container.Remove(ctx); err != nil {
		return err
	}
	if err := s.releaseStorages(ctx, m); err != nil {
		return fmt.Errorf("remove container %s: %w", id, err)
	}
	s.shares.drop(m)
	s.forget(id)
	slog.Info("container is removed", "container", id)
	return nil
}

// ThawFor lets the volumes of a container go on that are frozen: a process that
// waits for one does not die, not even of SIGKILL.
func (s *Sandbox) ThawFor(id, why string) {
	s.mu.Lock()
	var storages []string
	if m := s.containers[id]; m != nil {
		storages = slices.Clone(m.storages)
	}
	s.mu.Unlock()
	s.Mounts.ThawEach(storages, why)
}

// whole returns a container, waiting for one that is still being made: a shim
// whose patience with that is over removes it at once.
func (s *Sandbox) whole(ctx context.Context, id string) (*member, error) {
	s.mu.Lock()
	m := s.containers[id]
	s.mu.Unlock()
	if m == nil {
		return nil, fmt.Errorf("container %q: %w", id, ErrNoContainer)
	}
	select {
	case <-m.settled:
	case <-ctx.Done():
		return nil, fmt.Errorf("container %s is still being made: %w", id, ctx.Err())
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.containers[id] != m {
		return nil, fmt.Errorf("container %q: %w", id, ErrNoContainer)
	}
	return m, nil
}

// releaseStorages releases the container's storages, last first, and keeps
// those that failed for the next try.
func (s *Sandbox) releaseStorages(ctx context.Context, m *member) error {
	s.mu.Lock()
	storages := m.storages
	m.storages = nil
	s.mu.Unlock()

	var kept []string
	var failures []error
	for i := len(storages) - 1; i >= 0; i-- {
		if err := s.Mounts.Release(ctx, storages[i]); err != nil {
			failures = append(failures, err)
			kept = append([]string{storages[i]}, kept...)
		}
	}
	s.mu.Lock()
	m.storages = append(kept, m.storages...)
	s.mu.Unlock()
	return errors.Join(failures...)
}
