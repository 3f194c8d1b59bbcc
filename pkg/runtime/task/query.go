package task

import (
	"context"
	"os"

	taskapi "github.com/containerd/containerd/api/runtime/task/v2"
	tasktypes "github.com/containerd/containerd/api/types/task"
	"google.golang.org/protobuf/types/known/timestamppb"
)

// State says how a process is. It never waits for anything.
func (s *Service) State(_ context.Context, r *taskapi.StateRequest) (*taskapi.StateResponse, error) {
	c, p, err := s.process(r.GetID(), r.GetExecID())
	if err != nil {
		return nil, err
	}
	out := &taskapi.StateResponse{
		ID:       c.id,
		ExecID:   p.exec,
		Bundle:   c.bundle,
		Pid:      c.pod.pid(),
		Status:   p.now().status(),
		Stdin:    p.stdio.config.Stdin,
		Stdout:   p.stdio.config.Stdout,
		Stderr:   p.stdio.config.Stderr,
		Terminal: p.stdio.config.Terminal,
	}
	if e, ended := p.exit(); ended {
		out.ExitStatus, out.ExitedAt = e.Status, timestamppb.New(e.At)
	}
	return out, nil
}

// Wait blocks until the process has ended and its exit has been published.
func (s *Service) Wait(ctx context.Context, r *taskapi.WaitRequest) (*taskapi.WaitResponse, error) {
	_, p, err := s.process(r.GetID(), r.GetExecID())
	if err != nil {
		return nil, err
	}
	select {
	case <-p.exited:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	e, _ := p.exit()
	return &taskapi.WaitResponse{ExitStatus: e.Status, ExitedAt: timestamppb.New(e.At)}, nil
}

// Pids names the hypervisor's process: those of the container exist in the guest only.
func (s *Service) Pids(_ context.Context, r *taskapi.PidsRequest) (*taskapi.PidsResponse, error) {
	c, err := s.container(r.GetID())
	if err != nil {
		return nil, err
	}
	return &taskapi.PidsResponse{Processes: []*tasktypes.ProcessInfo{{Pid: c.pod.pid()}}}, nil
}

// Connect is how containerd finds a shim again after a restart. A container that is not here, because that restart
// came in the middle of its creation, is not found: containerd 1.6 would take it for one that runs, and never end the
// shim of a pod that never was.
func (s *Service) Connect(_ context.Context, r *taskapi.ConnectRequest) (*taskapi.ConnectResponse, error) {
	c, err := s.container(r.GetID())
	if err != nil {
		return nil, err
	}
	return &taskapi.ConnectResponse{ShimPid: uint32(os.Getpid()), TaskPid: c.pod.pid()}, nil
}

// Stats returns the metrics of the container's cgroup in the guest.
func (s *Service) Stats(ctx context.Context, r *taskapi.StatsRequest) (*taskapi.StatsResponse, error) {
	c, err := s.container(r.GetID())
	if err != nil {
		return nil, err
	}
	measured, err := c.pod.Stats(ctx, c.id)
	if err != nil {
		return nil, c.pod.explain(err)
	}
	stats, err := metrics(measured)
	if err != nil {
		return nil, err
	}
	return &taskapi.StatsResponse{Stats: stats}, nil
}
