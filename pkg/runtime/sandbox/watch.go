package sandbox

import (
	"context"
	"fmt"
	"time"
)

// killTimeout bounds the killing of a machine.
const killTimeout = 20 * time.Second

// watch waits until the machine is gone. A machine whose files or agent are gone is killed: it could not be stopped in
// any other way, and nothing in it goes on.
func (s *Sandbox) watch() {
	defer close(s.done)
	trouble := make(chan error, 1)
	watched := make(chan struct{})
	go func() {
		defer close(watched)
		if err := s.watchAgent(); err != nil {
			trouble <- err
		}
	}()
	defer func() { s.endLife(); <-watched }()

	select {
	case <-s.machine.Done():
		if err := s.machine.Err(); err != nil {
			s.fail(fmt.Errorf("the virtual machine is gone: %w", err))
		}
	case <-s.share.Done():
		s.kill(fmt.Errorf("the file share is gone: %w", s.share.Err()))
	case <-s.network.Done():
		s.kill(fmt.Errorf("the pod's network is gone: %w", s.network.Err()))
	case err := <-trouble:
		s.kill(err)
	}
}

// watchAgent returns why the agent counts as dead, or nil when the sandbox's life ends.
func (s *Sandbox) watchAgent() error {
	err := s.agent.Watch(s.life, s.times.checkPeriod, s.times.checkDeadline, &patience{sandbox: s})
	if err == nil {
		return nil
	}
	return fmt.Errorf("the guest is dead: %w", err)
}

// kill ends the machine, unless it is being stopped anyway: everything that hangs on it ends in some order then.
func (s *Sandbox) kill(reason error) {
	select {
	case <-s.machine.Done(): // that it died says more than that its agent is gone
		if err := s.machine.Err(); err != nil {
			reason = fmt.Errorf("the virtual machine is gone: %w", err)
		}
	case <-time.After(s.times.settle):
	}
	s.fail(reason)
	ctx, cancel := context.WithTimeout(context.Background(), killTimeout)
	defer cancel()
	if err := s.machine.Stop(ctx); err != nil {
		s.log.Error("kill the virtual machine", "error", err)
	}
}

// fail remembers the first reason. After a Stop has begun the end of the machine is no failure.
func (s *Sandbox) fail(reason error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed || s.err != nil {
		return
	}
	s.closed, s.err = true, reason
	s.log.Error("sandbox has failed", "error", reason)
}
