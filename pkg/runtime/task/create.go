package task

import (
	"context"
	"errors"
	"fmt"

	taskapi "github.com/containerd/containerd/api/runtime/task/v2"
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/katadirect/katadirect/internal/rollback"
	"github.com/katadirect/katadirect/pkg/runtime/agentclient"
)

// Create makes a container, and before the first one the pod's machine.
func (s *Service) Create(ctx context.Context, r *taskapi.CreateTaskRequest) (_ *taskapi.CreateTaskResponse, err error) {
	if r.GetCheckpoint() != "" {
		return nil, fmt.Errorf("restore from a checkpoint: %w", ErrNotImplemented)
	}
	spec, err := ReadSpec(r.GetBundle())
	if err != nil {
		return nil, err
	}
	kind, sandboxID, err := Classify(r.GetID(), spec.Annotations)
	if err != nil {
		return nil, err
	}
	config, err := s.configPath(r.GetOptions())
	if err != nil {
		return nil, err
	}
	c := s.newContainer(r, kind, spec)

	var undo rollback.Stack
	defer undo.OnError(ctx, &err)

	if err := s.reserve(c); err != nil {
		return nil, err
	}
	undo.Push("forget the container", func(context.Context) error {
		s.release(c)
		return move(c.init.life, "give up creating", creating.failed)
	})
	c.init.stdio, err = openStdio(ctx, s.streams(r, c.init), c.init.log)
	if err != nil {
		return nil, err
	}
	undo.Push("close the streams", func(context.Context) error { c.init.stdio.close(); return nil })

	if kind != PodContainer {
		sb, err := s.boot(ctx, BootRequest{ID: sandboxID, Bundle: r.GetBundle(), Spec: spec, ConfigPath: config})
		if err != nil {
			return nil, fmt.Errorf("start the virtual machine: %w", err)
		}
		p := newPod(sandboxID, sb, s.log, &s.tasks)
		s.tasks.Go(func() { s.watchOOM(p) })
		undo.Push("stop the machine", p.stop)
		s.setPod(c, p)
	}
	if c.pod.id != sandboxID {
		return nil, fmt.Errorf("%w: container %s is of sandbox %s, this shim runs %s", ErrInvalid, c.id, sandboxID, c.pod.id)
	}
	err = c.pod.CreateContainer(ctx, ContainerRequest{
		ID: c.id, Bundle: c.bundle, Spec: spec, Rootfs: r.GetRootfs(), Terminal: r.GetTerminal(),
	})
	if err != nil {
		return nil, c.pod.explain(err)
	}
	if err := move(c.init.life, "finish creating", creating.created); err != nil {
		return nil, err
	}
	s.publishCreate(c, r)
	c.init.log.Info("container created", "pid", c.pod.PID())
	return &taskapi.CreateTaskResponse{Pid: c.pod.pid()}, nil
}

func (s *Service) newContainer(r *taskapi.CreateTaskRequest, kind Kind, spec *specs.Spec) *container {
	log := s.log.With("container", r.GetID())
	return &container{
		id:      r.GetID(),
		bundle:  r.GetBundle(),
		kind:    kind,
		init:    &process{life: newLife(creating{}), container: r.GetID(), log: log},
		message: messageFile(spec),
		oom:     make(chan struct{}),
		execs:   make(map[string]*process),
	}
}

// explain adds why the machine is gone to an error that came of it. That the agent is gone is noticed first.
func (p *pod) explain(err error) error {
	if p.alive.Err() == nil && !(errors.Is(err, agentclient.ErrGone) && p.dying(context.Background())) {
		return err
	}
	return errors.Join(err, fmt.Errorf("the machine is gone: %w", context.Cause(p.alive)))
}

func (p *pod) pid() uint32 { return uint32(p.PID()) }
