package sandbox

import (
	"context"
	"fmt"
	"io"
	"syscall"

	"github.com/google/uuid"
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/katadirect/katadirect/pkg/agentproto"
	"github.com/katadirect/katadirect/pkg/runtime/sandbox/guestspec"
)

// A process is named by its container's id and its exec id; the exec id "" is the container's first process. To the
// agent that one has the container's id, and every other a fresh UUID: containerd's exec ids may come again.

// process returns the agent's name of a process.
func (s *Sandbox) process(containerID, execID string) (string, error) {
	c, err := s.container(containerID)
	if err != nil || execID == "" {
		return containerID, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	name, ok := c.execs[execID]
	if !ok {
		return "", fmt.Errorf("process %s of container %s: %w", execID, containerID, ErrNotFound)
	}
	return name, nil
}

// StartContainer lets the container's first process run.
func (s *Sandbox) StartContainer(ctx context.Context, id string) error {
	if _, err := s.container(id); err != nil {
		return err
	}
	_, err := s.agent.StartContainer(ctx, &agentproto.StartContainerRequest{ContainerId: id})
	return err
}

// Exec starts one more process in a running container.
func (s *Sandbox) Exec(ctx context.Context, containerID, execID string, p *specs.Process) error {
	c, err := s.container(containerID)
	if err != nil {
		return err
	}
	name := uuid.NewString()
	if err := c.addExec(execID, name); err != nil {
		return err
	}
	_, err = s.agent.ExecProcess(ctx, &agentproto.ExecProcessRequest{
		ContainerId: containerID, ExecId: name, Process: agentproto.ProcessToProto(guestspec.Process(p))})
	// After a call that was given up the process may run all the same; the name is kept so that it can be killed.
	if err != nil && ctx.Err() == nil {
		c.removeExec(execID)
	}
	return err
}

func (c *container) addExec(execID, name string) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, ok := c.execs[execID]; ok || execID == "" {
		return fmt.Errorf("process %q of container %s: %w", execID, c.id, ErrExists)
	}
	c.execs[execID] = name
	return nil
}

func (c *container) removeExec(execID string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.execs, execID)
}

// Signal sends sig to a process, or with all to every process of the container, which an agent can do with SIGKILL
// only; any other signal then goes to the first process.
func (s *Sandbox) Signal(ctx context.Context, containerID, execID string, sig syscall.Signal, all bool) error {
	name, err := s.process(containerID, execID)
	if err != nil {
		return err
	}
	if all && execID == "" {
		name = "" // the agent's word for all
	}
	_, err = s.agent.SignalProcess(ctx, &agentproto.SignalProcessRequest{
		ContainerId: containerID, ExecId: name, Signal: uint32(sig)})
	return err
}

// Wait blocks until the process has ended and returns its exit status: its code, or 128 plus the signal that ended
// it. The agent forgets the process then.
func (s *Sandbox) Wait(ctx context.Context, containerID, execID string) (int, error) {
	name, err := s.process(containerID, execID)
	if err != nil {
		return 0, err
	}
	r, err := s.agent.WaitProcess(ctx, &agentproto.WaitProcessRequest{ContainerId: containerID, ExecId: name})
	if err != nil {
		return 0, err
	}
	if c, err := s.container(containerID); err == nil {
		s.processEnded(c, execID)
	}
	return int(r.GetStatus()), nil
}

func (s *Sandbox) processEnded(c *container, execID string) {
	if execID != "" {
		c.removeExec(execID)
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	c.ended = true
}

// Stdin writes to the process's standard input; Close closes it in the guest. The end of ctx ends the writing.
func (s *Sandbox) Stdin(ctx context.Context, containerID, execID string) io.WriteCloser {
	name, err := s.process(containerID, execID)
	if err != nil {
		return noStream{err}
	}
	return s.agent.Stdin(ctx, containerID, name)
}

// Stdout reads the process's standard output to its end, or to that of ctx.
func (s *Sandbox) Stdout(ctx context.Context, containerID, execID string) io.Reader {
	name, err := s.process(containerID, execID)
	if err != nil {
		return noStream{err}
	}
	return s.agent.Stdout(ctx, containerID, name)
}

// Stderr reads the process's standard error to its end, or to that of ctx. With a terminal there is nothing on it.
func (s *Sandbox) Stderr(ctx context.Context, containerID, execID string) io.Reader {
	name, err := s.process(containerID, execID)
	if err != nil {
		return noStream{err}
	}
	return s.agent.Stderr(ctx, containerID, name)
}

// noStream is a stream of a process that is not there.
type noStream struct{ err error }

func (n noStream) Read([]byte) (int, error)  { return 0, n.err }
func (n noStream) Write([]byte) (int, error) { return 0, n.err }
func (n noStream) Close() error              { return n.err }

// ResizeTerminal sets the process's terminal to width columns and height rows.
func (s *Sandbox) ResizeTerminal(ctx context.Context, containerID, execID string, width, height uint32) error {
	name, err := s.process(containerID, execID)
	if err != nil {
		return err
	}
	_, err = s.agent.TtyWinResize(ctx, &agentproto.TtyWinResizeRequest{
		ContainerId: containerID, ExecId: name, Row: height, Column: width})
	return err
}

// Pause freezes all processes of the container.
func (s *Sandbox) Pause(ctx context.Context, id string) error {
	if _, err := s.container(id); err != nil {
		return err
	}
	_, err := s.agent.PauseContainer(ctx, &agentproto.PauseContainerRequest{ContainerId: id})
	return err
}

// Resume thaws them.
func (s *Sandbox) Resume(ctx context.Context, id string) error {
	if _, err := s.container(id); err != nil {
		return err
	}
	_, err := s.agent.ResumeContainer(ctx, &agentproto.ResumeContainerRequest{ContainerId: id})
	return err
}

// Update changes the container's resource limits.
func (s *Sandbox) Update(ctx context.Context, id string, r *specs.LinuxResources) error {
	c, err := s.container(id)
	if err != nil {
		return err
	}
	if err := s.accommodate(ctx, c, r); err != nil {
		return err
	}
	_, err = s.agent.UpdateContainer(ctx, &agentproto.UpdateContainerRequest{
		ContainerId: id, Resources: agentproto.ResourcesToProto(guestspec.Resources(r))})
	return err
}

// Stats returns what the container's cgroup in the guest counts.
func (s *Sandbox) Stats(ctx context.Context, id string) (*agentproto.StatsContainerResponse, error) {
	if _, err := s.container(id); err != nil {
		return nil, err
	}
	return s.agent.StatsContainer(ctx, &agentproto.StatsContainerRequest{ContainerId: id})
}

// LastWords returns what the container has left in the file that kubelet reads when it has ended, if the guest has only a
// copy of that; "" if it is the host's own.
func (s *Sandbox) LastWords(ctx context.Context, id string) (string, error) {
	if !s.copies() {
		return "", nil
	}
	if _, err := s.container(id); err != nil {
		return "", err
	}
	r, err := s.agent.GetDiagnosticData(ctx, &agentproto.GetDiagnosticDataRequest{LogType: agentproto.TerminationLog, ContainerId: id})
	return r.GetData(), err
}

// NextOOM blocks until the guest's kernel has taken a process from a container for want of memory, and returns the
// container's id.
func (s *Sandbox) NextOOM(ctx context.Context) (string, error) {
	r, err := s.agent.GetOOMEvent(ctx, &agentproto.GetOOMEventRequest{})
	return r.GetContainerId(), err
}
