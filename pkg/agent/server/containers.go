package server

import (
	"context"
	"fmt"
	"time"

	"golang.org/x/sys/unix"

	"github.com/katadirect/katadirect/pkg/agent/container"
	"github.com/katadirect/katadirect/pkg/agent/guest"
	"github.com/katadirect/katadirect/pkg/agentproto"
)

var empty = &agentproto.Empty{}

// CreateContainer mounts the container's storages and makes the container; its
// first process waits for StartContainer.
func (s *Service) CreateContainer(ctx context.Context, req *agentproto.CreateContainerRequest) (*agentproto.Empty, error) {
	if err := refuse(req); err != nil {
		return nil, fmt.Errorf("create container %s: %w", req.GetContainerId(), err)
	}
	return empty, s.Sandbox.CreateContainer(ctx, req)
}

// StartContainer lets the container's first process run.
func (s *Service) StartContainer(ctx context.Context, req *agentproto.StartContainerRequest) (*agentproto.Empty, error) {
	return empty, s.Sandbox.StartContainer(ctx, req.GetContainerId())
}

// RemoveContainer ends the container and unmounts its storages.
func (s *Service) RemoveContainer(ctx context.Context, req *agentproto.RemoveContainerRequest) (*agentproto.Empty, error) {
	if seconds := req.GetTimeout(); seconds > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, time.Duration(seconds)*time.Second)
		defer cancel()
	}
	if err := s.Sandbox.RemoveContainer(ctx, req.GetContainerId()); err != nil {
		return nil, err
	}
	if s.Forget != nil {
		go s.forgets.call(s.Forget)
	}
	return empty, guest.RemoveCopies(req.GetContainerId())
}

// ExecProcess starts one more process in a container.
func (s *Service) ExecProcess(ctx context.Context, req *agentproto.ExecProcessRequest) (*agentproto.Empty, error) {
	if err := refuse(req); err != nil {
		return nil, fmt.Errorf("process %s of container %s: %w", req.GetExecId(), req.GetContainerId(), err)
	}
	c, err := s.Sandbox.Container(req.GetContainerId())
	if err != nil {
		return nil, err
	}
	return empty, c.Exec(ctx, req.GetExecId(), agentproto.ProcessFromProto(req.GetProcess()))
}

// SignalProcess sends a signal to a process, or SIGKILL to all of a container.
func (s *Service) SignalProcess(_ context.Context, req *agentproto.SignalProcessRequest) (*agentproto.Empty, error) {
	c, err := s.Sandbox.Container(req.GetContainerId())
	if err != nil {
		return nil, err
	}
	const last = 64 // SIGRTMAX
	if req.GetSignal() > last {
		return nil, fmt.Errorf("signal %d: %w", req.GetSignal(), container.ErrSpec)
	}
	// The end of the container must not wait for a frozen volume. That of one more process, such as a probe that took too
	// long, is no reason to spoil a copy: it ends with the thaw.
	first := req.GetExecId() == "" || req.GetExecId() == req.GetContainerId()
	if first && unix.Signal(req.GetSignal()) == unix.SIGKILL {
		s.Sandbox.ThawFor(req.GetContainerId(), "a container that uses the volume is being killed")
	}
	return empty, c.Signal(req.GetExecId(), unix.Signal(req.GetSignal()))
}

// WaitProcess waits for a process's exit.
func (s *Service) WaitProcess(ctx context.Context, req *agentproto.WaitProcessRequest) (*agentproto.WaitProcessResponse, error) {
	c, err := s.Sandbox.Container(req.GetContainerId())
	if err != nil {
		return nil, err
	}
	code, err := c.Wait(ctx, req.GetExecId())
	if err != nil {
		return nil, err
	}
	return &agentproto.WaitProcessResponse{Status: int32(code)}, nil
}

// UpdateContainer changes a container's limits.
func (s *Service) UpdateContainer(ctx context.Context, req *agentproto.UpdateContainerRequest) (*agentproto.Empty, error) {
	c, err := s.Sandbox.Container(req.GetContainerId())
	if err != nil {
		return nil, err
	}
	return empty, c.Update(ctx, agentproto.ResourcesFromProto(req.GetResources()))
}

// StatsContainer returns a container's figures, and those of the network, which
// is the whole pod's.
func (s *Service) StatsContainer(_ context.Context, req *agentproto.StatsContainerRequest) (*agentproto.StatsContainerResponse, error) {
	c, err := s.Sandbox.Container(req.GetContainerId())
	if err != nil {
		return nil, err
	}
	stats, err := c.Stats()
	if err != nil {
		return nil, err
	}
	return &agentproto.StatsContainerResponse{CgroupStats: stats, NetworkStats: s.Network.Figures()}, nil
}

// PauseContainer stops all processes of a container.
func (s *Service) PauseContainer(ctx context.Context, req *agentproto.PauseContainerRequest) (*agentproto.Empty, error) {
	c, err := s.Sandbox.Container(req.GetContainerId())
	if err != nil {
		return nil, err
	}
	return empty, c.Pause(ctx)
}

// ResumeContainer ends PauseContainer.
func (s *Service) ResumeContainer(ctx context.Context, req *agentproto.ResumeContainerRequest) (*agentproto.Empty, error) {
	c, err := s.Sandbox.Container(req.GetContainerId())
	if err != nil {
		return nil, err
	}
	return empty, c.Resume(ctx)
}

// RemoveStaleVirtiofsShareMounts lets go of what the guest still holds of
// folders that the host wants to unmount.
func (s *Service) RemoveStaleVirtiofsShareMounts(context.Context, *agentproto.RemoveStaleVirtiofsShareMountsRequest) (*agentproto.Empty, error) {
	return empty, guest.DropCaches()
}

// GetDiagnosticData returns a container's last words.
func (s *Service) GetDiagnosticData(_ context.Context, req *agentproto.GetDiagnosticDataRequest) (*agentproto.GetDiagnosticDataResponse, error) {
	if req.GetLogType() != agentproto.TerminationLog {
		return nil, fmt.Errorf("diagnostic data %q: %w: only %q can be had", req.GetLogType(), container.ErrSpec, agentproto.TerminationLog)
	}
	c, err := s.Sandbox.Container(req.GetContainerId())
	if err != nil {
		return nil, err
	}
	message, err := c.TerminationMessage()
	return &agentproto.GetDiagnosticDataResponse{Data: message}, err
}
