package task

import (
	"os"
	"path/filepath"
	"time"

	"github.com/containerd/containerd/api/events"
)

const (
	// oomRetry is the pause after a failed question, so that a guest that always fails costs next to nothing.
	oomRetry = time.Second
	// oomPause is the pause after a report: a guest can invent as many kills as it likes, and each is an event that
	// containerd hands to all who listen. The agent keeps what happens meanwhile.
	oomPause = 100 * time.Millisecond
	// maxGuestID is how much of an id that is the guest's invention goes to the log.
	maxGuestID = 128
)

// watchOOM reports such kills for as long as the machine lives.
func (s *Service) watchOOM(p *pod) {
	for p.alive.Err() == nil {
		pause := oomPause
		if id, err := p.NextOOM(p.alive); err == nil {
			s.reportOOM(id)
		} else {
			pause = oomRetry
		}
		select {
		case <-p.alive.Done():
		case <-time.After(pause):
		}
	}
}

// reportOOM publishes the event, and leaves a file in the bundle, by which CRI-O knows.
func (s *Service) reportOOM(id string) {
	c, err := s.container(id)
	if err != nil {
		s.log.Warn("the guest reports an OOM kill in a container that is not there",
			"container", id[:min(len(id), maxGuestID)])
		return
	}
	c.init.log.Warn("a process was killed for want of memory")
	s.events.Publish("/tasks/oom", &events.TaskOOM{ContainerID: id})
	if err := os.WriteFile(filepath.Join(c.bundle, "oom"), nil, 0o644); err != nil {
		c.init.log.Warn("leave a mark of it", "error", err)
	}
	c.oomOnce.Do(func() { close(c.oom) })
}

// oomGrace is how long the exit of a container that was killed, by nobody that the shim knows of, is held back for the
// news that the kernel did it. The guest tells both at the same time, but a busy host may hear of one of them late. CRI-O
// looks for the mark when it hears of the exit, and never again.
const oomGrace = time.Second

func (s *Service) awaitOOM(c *container, e Exit) {
	if e.Status != statusKilled || c.init.killed.Load() {
		return
	}
	select {
	case <-c.oom:
	case <-c.pod.alive.Done():
	case <-time.After(s.oomGrace):
	}
}
