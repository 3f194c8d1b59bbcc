package task

import (
	"context"
	"fmt"
	"syscall"
	"time"

	taskapi "github.com/containerd/containerd/api/runtime/task/v2"
	"google.golang.org/protobuf/types/known/emptypb"
)

// Kill sends a signal. To a process that has stopped, SIGKILL and SIGTERM succeed, since what they ask for is so.
func (s *Service) Kill(ctx context.Context, r *taskapi.KillRequest) (*emptypb.Empty, error) {
	c, p, err := s.process(r.GetID(), r.GetExecID())
	if err != nil {
		return nil, err
	}
	signal := syscall.Signal(r.GetSignal())
	ends := signal == syscall.SIGKILL || signal == syscall.SIGTERM

	now, err := p.settled(ctx)
	if err != nil {
		return nil, err
	}
	switch now.(type) {
	case running, paused:
		return &emptypb.Empty{}, s.signal(ctx, c, p, signal, r.GetAll())
	case created:
		if !ends {
			return nil, fmt.Errorf("cannot send %s: it is %s: %w", signal, now, ErrState)
		}
		s.cancel(c, p, Exit{Status: 128 + uint32(signal), At: time.Now()})
		return &emptypb.Empty{}, nil
	default:
		if !ends {
			return nil, fmt.Errorf("process %s has ended: %w", p.id(), ErrNotFound)
		}
		return &emptypb.Empty{}, nil
	}
}

func (s *Service) signal(ctx context.Context, c *container, p *process, signal syscall.Signal, all bool) error {
	err := c.pod.Signal(ctx, c.id, p.exec, signal, all)
	if err != nil {
		select {
		case <-p.exited:
			return nil // it was ending just then, which is what a signal is for
		case <-c.pod.alive.Done():
			return nil
		case <-time.After(dyingGrace):
		case <-ctx.Done():
		}
		return err
	}
	p.log.Debug("signal sent", "signal", signal, "all", all)
	if signal == syscall.SIGKILL {
		p.stdio.hurry()
	}
	return nil
}

// cancel ends a process that was never started. Only of a container is there an event: nobody waits for one of an exec
// that they have not started.
func (s *Service) cancel(c *container, p *process, e Exit) {
	p.stdio.close()
	if p.exec == "" {
		s.exited(c, p, e)
		return
	}
	if move(p.life, "cancel", func(st created) state { return st.exit(e) }) == nil {
		close(p.exited)
	}
}
