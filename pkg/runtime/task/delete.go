package task

import (
	"context"
	"fmt"
	"time"

	taskapi "github.com/containerd/containerd/api/runtime/task/v2"
	"google.golang.org/protobuf/types/known/emptypb"
	"google.golang.org/protobuf/types/known/timestamppb"
)

// removeTimeout bounds the removal of a container, which goes on when the caller has given up.
const removeTimeout = 2 * time.Minute

// Delete forgets an exec that has stopped, or takes a container that has stopped out of the machine, and with the
// container that owns it the machine. A failed one can be repeated; after a success the container is not found.
func (s *Service) Delete(ctx context.Context, r *taskapi.DeleteRequest) (*taskapi.DeleteResponse, error) {
	c, err := s.whole(ctx, r.GetID())
	if err != nil {
		return nil, err
	}
	p, err := c.process(r.GetExecID())
	if err != nil {
		return nil, err
	}
	now, err := p.settled(ctx)
	if err != nil {
		return nil, err
	}
	switch now.(type) {
	case created:
		s.cancel(c, p, Exit{Status: statusKilled, At: time.Now()})
	case gone:
		return nil, noContainer(c.id)
	}
	if err := move(p.life, "delete "+p.id(), stopped.delete); err != nil {
		switch now.(type) {
		case created, stopped: // somebody else was quicker, and what becomes of that decides
			return s.Delete(ctx, r)
		}
		return nil, err
	}
	// Whatever goes wrong from here on, the next delete finds the process stopped again, not being deleted for ever.
	defer func() { _ = move(p.life, "keep", deleting.failed) }()
	if p.exec != "" {
		c.forget(p)
	} else if err := s.remove(ctx, c); err != nil {
		return nil, fmt.Errorf("delete container %s: %w", c.id, err)
	}
	p.stdio.close() // containerd has read what it wants of the output
	exit, _ := p.exit()
	if err := move(p.life, "finish deleting", deleting.done); err != nil {
		return nil, err
	}
	return &taskapi.DeleteResponse{
		Pid: c.pod.pid(), ExitStatus: exit.Status, ExitedAt: timestamppb.New(exit.At),
	}, nil
}

// whole returns a container, waiting for one that is still being created: containerd gives up a create that takes too
// long, and deletes at once.
func (s *Service) whole(ctx context.Context, id string) (*container, error) {
	s.mu.Lock()
	c, ok := s.containers[id]
	s.mu.Unlock()
	if !ok {
		return nil, noContainer(id)
	}
	if _, err := c.init.settled(ctx); err != nil {
		return nil, err
	}
	return s.container(id)
}

// remove takes the container out of the machine, and with its owner the machine, and forgets it if somebody is there to
// hear of that. Who has given up asks again, by its state first: containerd would take "not found" for an end that
// somebody else has seen to, and leave the shim and the bundle as they are.
func (s *Service) remove(ctx context.Context, c *container) error {
	if !c.removed {
		if err := s.takeOut(ctx, c); err != nil {
			return err
		}
		c.removed = true
	}
	if ctx.Err() != nil {
		return fmt.Errorf("it is done, and nobody waits for the answer any more: %w", ctx.Err())
	}
	s.release(c)
	return nil
}

// takeOut does what remove is for. It goes on when the caller has given up.
func (s *Service) takeOut(ctx context.Context, c *container) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), removeTimeout)
	defer cancel()

	err := c.pod.RemoveContainer(ctx, c.id)
	if err != nil && c.kind == PodContainer && c.pod.dying(ctx) {
		err = c.pod.RemoveContainer(ctx, c.id) // without a guest there is less to do
	}
	if c.kind != PodContainer {
		// The end of the machine takes the container along, whatever the guest had to say about it.
		if err != nil {
			c.init.log.Warn("remove the container; its machine is stopped next", "error", err)
		}
		err = c.pod.stop(ctx)
	}
	if err != nil {
		return err
	}
	exit, _ := c.init.exit()
	s.publishDelete(c, exit)
	c.init.log.Info("container deleted")
	return nil
}

// askGrace is how long after the last container's end containerd may take to ask for Shutdown. It does so at once, unless
// the answer to its delete has not reached it.
const askGrace = time.Minute

// endUnasked ends the shim when nothing is left in it and containerd has not asked for that: it asks for nothing of a task
// of which it does not know any more.
func (s *Service) endUnasked() {
	if s.close(true) {
		s.log.Warn("nothing is left in the shim, and containerd has not asked it to go")
		s.shutdown()
	}
}

// Shutdown ends the shim, if nothing is left in it. containerd asks after every delete that it thinks the last.
func (s *Service) Shutdown(ctx context.Context, _ *taskapi.ShutdownRequest) (*emptypb.Empty, error) {
	if !s.close(true) {
		return &emptypb.Empty{}, nil
	}
	if p := s.machine(); p != nil {
		if err := p.stop(ctx); err != nil {
			s.log.Error("stop the machine", "error", err)
		}
	}
	s.shutdown()
	return &emptypb.Empty{}, nil
}
