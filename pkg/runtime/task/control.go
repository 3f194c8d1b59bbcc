package task

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/containerd/containerd/api/events"
	taskapi "github.com/containerd/containerd/api/runtime/task/v2"
	"github.com/opencontainers/runtime-spec/specs-go"
	"google.golang.org/protobuf/types/known/emptypb"
)

// Pause freezes all processes of a container.
func (s *Service) Pause(ctx context.Context, r *taskapi.PauseRequest) (*emptypb.Empty, error) {
	c, err := s.container(r.GetID())
	if err != nil {
		return nil, err
	}
	if now, ok := c.init.now().(running); !ok {
		return nil, fmt.Errorf("cannot pause container %s: it is %s: %w", c.id, now, ErrState)
	}
	if err := c.pod.Pause(ctx, c.id); err != nil {
		return nil, err
	}
	if err := move(c.init.life, "pause container "+c.id, running.pause); err != nil {
		return nil, err
	}
	s.events.Publish("/tasks/paused", &events.TaskPaused{ContainerID: c.id})
	return &emptypb.Empty{}, nil
}

// Resume thaws them.
func (s *Service) Resume(ctx context.Context, r *taskapi.ResumeRequest) (*emptypb.Empty, error) {
	c, err := s.container(r.GetID())
	if err != nil {
		return nil, err
	}
	if now, ok := c.init.now().(paused); !ok {
		return nil, fmt.Errorf("cannot resume container %s: it is %s: %w", c.id, now, ErrState)
	}
	if err := c.pod.Resume(ctx, c.id); err != nil {
		return nil, err
	}
	if err := move(c.init.life, "resume container "+c.id, paused.resume); err != nil {
		return nil, err
	}
	s.events.Publish("/tasks/resumed", &events.TaskResumed{ContainerID: c.id})
	return &emptypb.Empty{}, nil
}

// Update changes a container's resource limits.
func (s *Service) Update(ctx context.Context, r *taskapi.UpdateTaskRequest) (*emptypb.Empty, error) {
	c, err := s.container(r.GetID())
	if err != nil {
		return nil, err
	}
	var resources specs.LinuxResources
	if err := json.Unmarshal(r.GetResources().GetValue(), &resources); err != nil {
		return nil, fmt.Errorf("%w: resources of container %s: %w", ErrInvalid, c.id, err)
	}
	return &emptypb.Empty{}, c.pod.Update(ctx, c.id, &resources)
}

// ResizePty sets the size of a process's terminal.
func (s *Service) ResizePty(ctx context.Context, r *taskapi.ResizePtyRequest) (*emptypb.Empty, error) {
	c, p, err := s.process(r.GetID(), r.GetExecID())
	if err != nil {
		return nil, err
	}
	if !p.stdio.config.Terminal {
		return nil, fmt.Errorf("process %s has no terminal: %w", p.id(), ErrState)
	}
	if now, ok := p.now().(running); !ok {
		return nil, fmt.Errorf("cannot resize the terminal of %s: it is %s: %w", p.id(), now, ErrState)
	}
	return &emptypb.Empty{}, c.pod.ResizeTerminal(ctx, c.id, p.exec, r.GetWidth(), r.GetHeight())
}

// CloseIO lets a process see the end of its stdin after what has been written to it.
func (s *Service) CloseIO(_ context.Context, r *taskapi.CloseIORequest) (*emptypb.Empty, error) {
	_, p, err := s.process(r.GetID(), r.GetExecID())
	if err != nil {
		return nil, err
	}
	if r.GetStdin() {
		p.stdio.closeStdin()
	}
	return &emptypb.Empty{}, nil
}

// Checkpoint is not possible: the processes live in a guest that cannot be frozen to disk one container at a time.
func (s *Service) Checkpoint(context.Context, *taskapi.CheckpointTaskRequest) (*emptypb.Empty, error) {
	return nil, fmt.Errorf("checkpoint of a container in a virtual machine: %w", ErrNotImplemented)
}
