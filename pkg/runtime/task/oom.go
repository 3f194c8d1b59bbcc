package task

import (
	"os"
	"path/filepath"
	"time"

	"github.com/containerd/containerd/api/events"
)

// oomRetry is the pause after a failed question, so that a guest that always fails costs next to nothing.
const oomRetry = time.Second

// watchOOM reports such kills for as long as the machine lives.
func (s *Service) watchOOM(p *pod) {
	for p.alive.Err() == nil {
		id, err := p.NextOOM(p.alive)
		if err == nil {
			s.reportOOM(id)
			continue
		}
		select {
		case <-p.alive.Done():
		case <-time.After(oomRetry):
		}
	}
}

// reportOOM publishes the event, and leaves a file in the bundle, by which CRI-O knows.
func (s *Service) reportOOM(id string) {
	c, err := s.container(id)
	if err != nil {
		s.log.Warn("the guest reports an OOM kill in a container that is not there", "container", id)
		return
	}
	c.init.log.Warn("a process was killed for want of memory")
	s.events.Publish("/tasks/oom", &events.TaskOOM{ContainerID: id})
	if err := os.WriteFile(filepath.Join(c.bundle, "oom"), nil, 0o644); err != nil {
		c.init.log.Warn("leave a mark of it", "error", err)
	}
}
