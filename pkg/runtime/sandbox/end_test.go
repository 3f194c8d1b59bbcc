package sandbox

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/katadirect/katadirect/pkg/directvolume"
	"github.com/katadirect/katadirect/pkg/runtime/agentclient"
	"github.com/katadirect/katadirect/pkg/runtime/qemu"
)

func TestWhatDiesTakesTheSandboxDownWithTheReason(t *testing.T) {
	const short, long = 200 * time.Millisecond, 20 * time.Second // a long one is not waited out
	for _, tc := range []struct {
		name                  string
		settle, checkDeadline time.Duration
		kill                  func(*host, *Sandbox)
		is                    error
		says                  string
	}{
		{"the machine", long, long, func(h *host, _ *Sandbox) { h.machine.die(errInjected) }, errInjected, "virtual machine is gone"},
		{"the machine, slowly", long, long, func(h *host, _ *Sandbox) {
			_ = h.machine.conns[0].Close()
			time.AfterFunc(50*time.Millisecond, func() { h.machine.die(errInjected) })
		}, errInjected, "virtual machine is gone"},
		{"virtiofsd", short, long, func(_ *host, s *Sandbox) { _ = syscall.Kill(s.share.Daemon().PID, syscall.SIGKILL) }, nil, "virtiofsd ended"},
		{"the connection to the agent", short, long, func(h *host, _ *Sandbox) { _ = h.machine.conns[0].Close() }, agentclient.ErrGone, "guest is dead"},
		{"the agent's answers", short, 3 * time.Second, func(h *host, _ *Sandbox) { h.t.Cleanup(h.agent.stopAnswering()) }, nil, "guest is dead"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			h := newHost(t)
			h.options.times.settle, h.options.times.checkDeadline = tc.settle, tc.checkDeadline
			s := h.create()
			if err := s.CreateContainer(t.Context(), h.container("c1", h.volume("v"))); err != nil {
				t.Fatal(err)
			}
			tc.kill(h, s)
			select {
			case <-s.Done():
			case <-time.After(time.Minute): // a busy host is an excuse for maxStarved deadlines
				t.Fatal("nothing was noticed")
			}
			if err := s.Err(); err == nil || tc.is != nil && !errors.Is(err, tc.is) || !strings.Contains(err.Error(), tc.says) {
				t.Errorf("reason %v, want %v with %q", err, tc.is, tc.says)
			}
			<-h.machine.Done()
			if err := s.CreateContainer(t.Context(), h.container("c2")); !errors.Is(err, ErrStopping) {
				t.Errorf("a new container: %v", err)
			}
			if err := s.RemoveContainer(t.Context(), "c1"); err != nil {
				t.Errorf("remove: %v", err)
			}
			if err := s.Stop(t.Context()); err != nil {
				t.Fatal(err)
			}
			h.nothingLeft()
		})
	}
}

func TestAMachineThatStandsStillForWantOfSpaceIsNotKilled(t *testing.T) {
	h := newHost(t)
	h.options.times.checkDeadline = time.Second
	s := h.create()
	s.onEvent(qemu.Event{Kind: qemu.EventStoppedNoSpace})
	resume := h.agent.stopAnswering()
	select {
	case <-s.Done():
		t.Fatalf("it was killed: %v", s.Err())
	case <-time.After(3 * h.options.times.checkDeadline):
	}
	h.agent.mu.Lock()
	h.agent.hang = nil
	h.agent.mu.Unlock()
	resume()
	s.onEvent(qemu.Event{Kind: qemu.EventResumed})
	if err := s.CreateContainer(t.Context(), h.container("c1")); err != nil {
		t.Errorf("afterwards: %v", err)
	}
}

func TestAMachineThatHasStoodStillHasAllItsTimeToAnswer(t *testing.T) {
	h := newHost(t)
	s := h.create()
	p := &patience{sandbox: s}
	ask := func() {
		p.Ask()
		p.starved = maxStarved // the host is no excuse any more
	}
	ask()
	s.onEvent(qemu.Event{Kind: qemu.EventStoppedNoSpace})
	s.onEvent(qemu.Event{Kind: qemu.EventResumed})
	if !p.Wait() || !s.standing(p.asked) {
		t.Error("what it stood still for counts as silence")
	}
	ask()
	if p.Wait() || s.standing(p.asked) {
		t.Error("an earlier stop excuses it for ever")
	}
}

func TestStopIsBoundedWhenTheGuestDoesNotAnswer(t *testing.T) {
	h := newHost(t)
	h.options.times.checkPeriod = time.Hour
	s := h.create()
	if err := s.CreateContainer(t.Context(), h.container("c1", h.volume("v"))); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(h.agent.stopAnswering())
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if err := s.Stop(ctx); err != nil {
		t.Fatal(err)
	}
	h.nothingLeft()
}

func TestStopDoesNotWaitForAContainerThatIsStillBeingMade(t *testing.T) {
	h := newHost(t)
	h.options.times.checkPeriod = time.Hour
	s := h.create()
	t.Cleanup(h.agent.stopAnswering())
	created := make(chan error)
	go func() { created <- s.CreateContainer(t.Context(), h.container("c1", h.volume("v"))) }()
	for !h.agent.called("CreateContainer c1") {
		time.Sleep(time.Millisecond)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if err := s.Stop(ctx); err != nil {
		t.Fatal(err)
	}
	if err := <-created; !errors.Is(err, agentclient.ErrGone) {
		t.Errorf("the container's error: %v", err)
	}
	h.nothingLeft()
}

func TestNothingIsGivenBackWhileTheHypervisorLives(t *testing.T) {
	h := newHost(t)
	s := h.create()
	if err := s.CreateContainer(t.Context(), h.container("c1", h.volume("v"))); err != nil {
		t.Fatal(err)
	}
	h.machine.failStop = errInjected
	if err := s.Stop(t.Context()); !errors.Is(err, errInjected) {
		t.Errorf("error %v", err)
	}
	if id, err := h.roots.records().SandboxFor(t.Context(), h.dir+"/target/v"); id != "s1" {
		t.Errorf("claimed by %q, %v", id, err)
	}
	h.machine.failStop = nil
	if err := s.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	h.nothingLeft()
}

func TestAFreshProcessCleansUpAfterADeadShim(t *testing.T) {
	h := newHost(t)
	s := h.create()
	r := h.container("c1", bind(h.folder("dir"), "/dir"), h.volume("v"))
	if err := s.CreateContainer(t.Context(), r); err != nil {
		t.Fatal(err)
	}
	_ = s.lease.Close() // as the end of the shim's process does
	for range 2 {
		if err := Cleanup(t.Context(), "s1", h.roots); err != nil {
			t.Fatal(err)
		}
	}
	h.nothingLeft()
	if err := Cleanup(t.Context(), "../s1", h.roots); !errors.Is(err, directvolume.ErrInvalidSandbox) {
		t.Errorf("an id that leads elsewhere: %v", err)
	}
}

func TestCleanupDoesNotNeedAWholeStateFile(t *testing.T) {
	h := newHost(t)
	s := h.create()
	if err := os.WriteFile(h.roots.stateFile("s1"), []byte(`{"bundle":`), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := s.share.Daemon().Kill(t.Context()); err != nil { // as the kernel does at the end of the shim
		t.Fatal(err)
	}
	_ = s.lease.Close()
	if err := Cleanup(t.Context(), "s1", h.roots); err != nil {
		t.Fatal(err)
	}
	_ = os.Remove(filepath.Join(h.options.Bundle, monitorAddress)) // goes with the bundle
	h.nothingLeft()
}
