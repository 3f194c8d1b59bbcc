package task

import (
	"github.com/containerd/containerd/api/events"
	taskapi "github.com/containerd/containerd/api/runtime/task/v2"
	"google.golang.org/protobuf/types/known/timestamppb"
)

func (s *Service) publishCreate(c *container, r *taskapi.CreateTaskRequest) {
	s.events.Publish("/tasks/create", &events.TaskCreate{
		ContainerID: c.id,
		Bundle:      c.bundle,
		Rootfs:      r.GetRootfs(),
		IO: &events.TaskIO{
			Stdin: r.GetStdin(), Stdout: r.GetStdout(), Stderr: r.GetStderr(), Terminal: r.GetTerminal(),
		},
		Pid: c.pod.pid(),
	})
}

func (s *Service) publishExecAdded(p *process) {
	s.events.Publish("/tasks/exec-added", &events.TaskExecAdded{ContainerID: p.container, ExecID: p.exec})
}

func (s *Service) publishStart(c *container, p *process) {
	if p.exec == "" {
		s.events.Publish("/tasks/start", &events.TaskStart{ContainerID: c.id, Pid: c.pod.pid()})
		return
	}
	s.events.Publish("/tasks/exec-started", &events.TaskExecStarted{
		ContainerID: c.id, ExecID: p.exec, Pid: c.pod.pid(),
	})
}

func (s *Service) publishExit(c *container, p *process, e Exit) {
	s.events.Publish("/tasks/exit", &events.TaskExit{
		ContainerID: c.id, ID: p.id(), Pid: c.pod.pid(), ExitStatus: e.Status, ExitedAt: timestamppb.New(e.At),
	})
}

func (s *Service) publishDelete(c *container, e Exit) {
	s.events.Publish("/tasks/delete", &events.TaskDelete{
		ContainerID: c.id, ID: c.id, Pid: c.pod.pid(), ExitStatus: e.Status, ExitedAt: timestamppb.New(e.At),
	})
}
