package task

import (
	"context"
	"encoding/json"
	"fmt"
	"syscall"
	"time"

	taskapi "github.com/containerd/containerd/api/runtime/task/v2"
	"github.com/opencontainers/runtime-spec/specs-go"
	"google.golang.org/protobuf/types/known/emptypb"
)

// statusLost is the exit status of a process whose own is not known, and of one that could not be started.
const statusLost = 255

// Exec prepares one more process in a running container. Start starts it.
func (s *Service) Exec(ctx context.Context, r *taskapi.ExecProcessRequest) (_ *emptypb.Empty, err error) {
	c, err := s.container(r.GetID())
	if err != nil {
		return nil, err
	}
	if r.GetExecID() == "" {
		return nil, fmt.Errorf("%w: exec without an id", ErrInvalid)
	}
	if err := c.takesExecs(); err != nil {
		return nil, err
	}
	var spec specs.Process
	if err := json.Unmarshal(r.GetSpec().GetValue(), &spec); err != nil {
		return nil, fmt.Errorf("%w: exec's process spec: %w", ErrInvalid, err)
	}
	spec.Terminal = r.GetTerminal()
	p := &process{
		life: newLife(created{}), container: c.id, exec: r.GetExecID(), spec: &spec,
		log: c.init.log.With("exec", r.GetExecID()),
	}
	p.stdio, err = openStdio(ctx, s.streams(r, p), p.log)
	if err != nil {
		return nil, err
	}
	if err := c.reserve(p); err != nil {
		p.stdio.close()
		return nil, err
	}
	s.publishExecAdded(p)
	return &emptypb.Empty{}, nil
}

// streams names those of a process that is to be made.
func (s *Service) streams(r interface {
	GetStdin() string
	GetStdout() string
	GetStderr() string
	GetTerminal() bool
}, p *process) StdioConfig {
	return StdioConfig{
		Stdin: r.GetStdin(), Stdout: r.GetStdout(), Stderr: r.GetStderr(), Terminal: r.GetTerminal(),
		ID: p.id(), Namespace: s.namespace,
	}
}

// Start lets a container's first process run, or starts an exec.
func (s *Service) Start(ctx context.Context, r *taskapi.StartRequest) (*taskapi.StartResponse, error) {
	c, p, err := s.process(r.GetID(), r.GetExecID())
	if err != nil {
		return nil, err
	}
	if err := move(p.life, "start", created.start); err != nil {
		return nil, err
	}
	// What has not run when this returns never will.
	defer func() { s.notStarted(p, Exit{Status: statusLost, At: time.Now()}) }()
	if err := s.launch(ctx, c, p); err != nil {
		return nil, c.pod.explain(err)
	}
	if err := move(p.life, "run", starting.started); err != nil {
		return nil, err
	}
	s.publishStart(c, p)
	// From here on the exit may be published: containerd has the start before it in the same queue.
	s.tasks.Go(func() { s.watch(c, p) })
	return &taskapi.StartResponse{Pid: c.pod.pid()}, nil
}

// launch starts the process in the guest and the copying of its streams. On error nothing of it runs any more.
func (s *Service) launch(ctx context.Context, c *container, p *process) (err error) {
	if p.exec == "" {
		err = c.pod.StartContainer(ctx, c.id)
	} else {
		err = s.launchExec(ctx, c, p)
	}
	if err != nil {
		p.stdio.close()
		if ctx.Err() != nil {
			// The call was given up, but the guest may have started the process all the same.
			s.killLost(ctx, c, p)
		}
		return err
	}
	streams, end := context.WithCancel(c.pod.alive)
	p.stdio.start(guest{
		stdin:  c.pod.Stdin(streams, c.id, p.exec),
		stdout: c.pod.Stdout(streams, c.id, p.exec),
		stderr: c.pod.Stderr(streams, c.id, p.exec),
		end:    end,
	})
	return nil
}

func (s *Service) launchExec(ctx context.Context, c *container, p *process) error {
	if err := c.takesExecs(); err != nil {
		return err
	}
	return c.pod.Exec(ctx, c.id, p.exec, p.spec)
}

// takesExecs refuses more execs once the container's first process has ended, also as long as that is held back: the
// exits of all execs come before.
func (c *container) takesExecs() error {
	now, ok := c.init.now().(running)
	switch {
	case !ok:
		return fmt.Errorf("cannot exec in container %s: it is %s: %w", c.id, now, ErrState)
	case isClosed(c.init.reaped):
		return fmt.Errorf("cannot exec in container %s: it has ended: %w", c.id, ErrState)
	}
	return nil
}

func (s *Service) killLost(ctx context.Context, c *container, p *process) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), killTimeout)
	defer cancel()
	if err := c.pod.Signal(ctx, c.id, p.exec, syscall.SIGKILL, false); err != nil {
		p.log.Debug("kill a process whose start was given up", "error", err)
	}
}
