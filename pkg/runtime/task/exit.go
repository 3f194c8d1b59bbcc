package task

import (
	"context"
	"errors"
	"syscall"
	"time"
)

const (
	// statusKilled is 128 and SIGKILL: the exit status of everything in a machine that is gone.
	statusKilled = 128 + uint32(syscall.SIGKILL)
	// maxStatus is the highest there is: an exit code has eight bits.
	maxStatus = 255
	// killTimeout bounds a kill that nobody waits for.
	killTimeout = 5 * time.Second
	// execGrace is how long a container's exit is held back for the exits of its execs, which the guest's kernel
	// kills together with the first process.
	execGrace = 5 * time.Second
	// drainGrace is how long a machine's last output may take once the machine is gone.
	drainGrace = 2 * time.Second
)

// watch follows a started process to its end and reports it. The order is fixed:
//
//  1. its output is complete in containerd's fifos, which are closed when they have been read
//  2. its exit status is known, and so the agent has forgotten it
//  3. a container's execs have been reported before
//  4. a container's last words are in kubelet's file
//  5. a container's output has been read, or nobody reads it: see awaitReader
//  6. State says stopped, then TaskExit is published, then Wait returns
//  7. with the container that owns the machine, the machine ends
func (s *Service) watch(c *container, p *process) {
	s.drain(c, p)
	exit, lost := s.reap(c, p)
	close(p.reaped)
	p.stdio.finish()
	if p == c.init {
		s.endExecs(c)
		s.lastWords(c, lost)
		s.awaitOOM(c, exit)
		s.awaitReader(p)
	}
	s.exited(c, p, exit)
	if p == c.init && c.kind != PodContainer {
		if err := c.pod.stop(context.Background()); err != nil {
			p.log.Error("stop the machine", "error", err)
		}
	}
}

// drain waits until the process's output is complete, or the machine is gone and there will be no more.
func (s *Service) drain(c *container, p *process) {
	drained := p.stdio.drained()
	select {
	case <-drained:
		return
	case <-c.pod.alive.Done():
	}
	p.stdio.hurry()
	select {
	case <-drained:
	case <-time.After(drainGrace + stallLimit):
		p.log.Warn("output was cut short: the machine is gone")
	}
}

// reap gets the exit status from the guest. lost is why the machine has taken the process along, unless it was told to.
func (s *Service) reap(c *container, p *process) (exit Exit, lost error) {
	ctx, cancel := context.WithCancel(c.pod.alive)
	defer cancel()
	go func() { // the end of one that the guest did not end is reported all the same
		select {
		case <-p.exited:
			cancel()
		case <-ctx.Done():
		}
	}()
	status, err := c.pod.Wait(ctx, c.id, p.exec)
	exit = Exit{Status: uint32(status), At: time.Now()}
	switch {
	case err == nil && (status < 0 || status > maxStatus):
		exit.Status = statusLost
		p.log.Error("exit status that no process has", "status", exit.Status, "guest", status)
	case err == nil:
		p.log.Info("process exited", "status", exit.Status)
	case isClosed(p.exited):
	case c.pod.dying(context.Background()):
		exit.Status = statusKilled
		if lost = context.Cause(c.pod.alive); errors.Is(lost, errStopped) {
			lost = nil
		}
		p.log.Warn("process is gone with its machine", "status", exit.Status, "reason", context.Cause(c.pod.alive))
	default:
		exit.Status = statusLost
		p.log.Error("exit status is not known", "status", exit.Status, "error", err)
	}
	return exit, lost
}

// endExecs kills what execs are left of a container whose first process has ended, and waits for their exits. Those that
// were never started never will be.
func (s *Service) endExecs(c *container) {
	ctx, cancel := context.WithTimeout(c.pod.alive, execGrace)
	defer cancel()
	for _, p := range c.allExecs() {
		switch p.now().(type) {
		case created:
			s.cancel(c, p, Exit{Status: statusKilled, At: time.Now()})
		case starting, running:
			if err := c.pod.Signal(ctx, c.id, p.exec, syscall.SIGKILL, false); err != nil {
				p.log.Debug("kill an exec of a container that has ended", "error", err)
			}
			p.stdio.hurry()
		}
	}
	limit := time.After(execGrace)
	for _, p := range c.allExecs() {
		switch p.now().(type) {
		case starting, running, stopped: // what has stopped may still be on its way to be published
		default:
			continue
		}
		select {
		case <-p.exited:
		case <-limit:
			p.log.Warn("exec did not end with its container; it is reported as killed")
			s.exited(c, p, Exit{Status: statusKilled, At: time.Now()})
		}
	}
}

// exited records a process's end and publishes it. Only the first report of one counts.
func (s *Service) exited(c *container, p *process, e Exit) {
	if move(p.life, "report the exit", func(a alive) state { return a.exit(e) }) != nil {
		return
	}
	s.publishExit(c, p, e)
	close(p.exited)
}

// notStarted records the end of a process whose start failed. containerd has the error already and gets no event.
func (s *Service) notStarted(p *process, e Exit) {
	if move(p.life, "give up", func(st starting) state { return st.exit(e) }) == nil {
		close(p.exited)
	}
}

func isClosed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}
