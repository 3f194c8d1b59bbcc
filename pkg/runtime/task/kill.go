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
		if isClosed(p.reaped) {
			break // its exit is held back for its output
		}
		return &emptypb.Empty{}, s.signal(ctx, c, p, signal, r.GetAll())
	case created:
		if !ends {
			return nil, fmt.Errorf("cannot send %s: it is %s: %w", signal, now, ErrState)
		}
		s.cancel(c, p, Exit{Status: 128 + uint32(signal), At: time.Now()})
		return &emptypb.Empty{}, nil
	}
	if !ends {
		return nil, fmt.Errorf("process %s has ended: %w", p.id(), ErrNotFound)
	}
	return &emptypb.Empty{}, nil
}

// killLimit is how long the guest may take to end a process after SIGKILL. It is below the two minutes that kubelet
// gives a pod to stop, and far above what a sound guest needs.
const killLimit = time.Minute

func (s *Service) signal(ctx context.Context, c *container, p *process, signal syscall.Signal, all bool) error {
	if signal == syscall.SIGKILL {
		// Before the call, and whatever comes of it: a guest that does not answer has not obeyed.
		p.killed.Store(true)
		p.insist.Do(func() { s.tasks.Go(func() { s.insist(c, p) }) })
	}
	err := c.pod.Signal(ctx, c.id, p.exec, signal, all)
	if err != nil {
		select {
		case <-p.reaped:
			return nil
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

// insist sees to it that a process that was told to die does, or is as good as dead: a guest that does not obey, or
// that stands still because its host has no space, would keep the pod from being deleted for ever. A container counts
// as ended only when it cannot run any more, so its machine goes with it; an exec is only reported, as nobody starts
// another in its place.
func (s *Service) insist(c *container, p *process) {
	select {
	case <-p.exited:
		return
	case <-p.reaped:
		return
	case <-c.pod.alive.Done():
		return
	case <-time.After(s.killLimit):
	}
	if p.exec != "" {
		p.log.Error("the guest does not end a process that was killed; it is reported as killed")
		p.stdio.close()
		s.exited(c, p, Exit{Status: statusKilled, At: time.Now()})
		return
	}
	p.log.Error("the guest does not end a container that was killed; its machine is stopped")
	if err := c.pod.stop(context.Background()); err != nil {
		p.log.Error("stop the machine", "error", err)
	}
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
