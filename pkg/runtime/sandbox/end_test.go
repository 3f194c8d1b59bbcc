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
)

func TestWhatDiesTakesTheSandboxDownWithTheReason(t *testing.T) {
	for _, tc := range []struct {
		name string
		kill func(*host, *Sandbox)
		is   error
		says string
	}{
		{"the machine", func(h *host, _ *Sandbox) { h.machine.die(errInjected) }, errInjected, "virtual machine is gone"},
		{"the machine, slowly", func(h *host, _ *Sandbox) {
			_ = h.machine.conns[0].Close()
			time.AfterFunc(h.options.times.settle/2, func() { h.machine.die(errInjected) })
		}, errInjected, "virtual machine is gone"},
		{"virtiofsd", func(_ *host, s *Sandbox) { _ = syscall.Kill(s.share.Daemon().PID, syscall.SIGKILL) }, nil, "virtiofsd ended"},
		{"the connection to the agent", func(h *host, _ *Sandbox) { _ = h.machine.conns[0].Close() }, agentclient.ErrGone, "guest is dead"},
		{"the agent's answers", func(h *host, _ *Sandbox) { h.t.Cleanup(h.agent.stopAnswering()) }, nil, "guest is dead"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			h := newHost(t)
			s := h.create()
			if err := s.CreateContainer(t.Context(), h.container("c1", h.volume("v"))); err != nil {
				t.Fatal(err)
			}
			tc.kill(h, s)
			select {
			case <-s.Done():
			case <-time.After(20 * time.Second):
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
	h.options.times.checkDeadline = 20 * time.Millisecond
	s := h.create()
	s.noSpace.Store(true)
	resume := h.agent.stopAnswering()
	select {
	case <-s.Done():
		t.Fatalf("it was killed: %v", s.Err())
	case <-time.After(10 * h.options.times.checkDeadline):
	}
	h.agent.mu.Lock()
	h.agent.hang = nil
	h.agent.mu.Unlock()
	resume()
	s.noSpace.Store(false)
	if err := s.CreateContainer(t.Context(), h.container("c1")); err != nil {
		t.Errorf("afterwards: %v", err)
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
