package pidfd

import (
	"context"
	"errors"
	"os/exec"
	"testing"
	"time"
)

func TestAProcessIsHeldKilledAndWaitedFor(t *testing.T) {
	cmd := exec.Command("sleep", "1000000")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	p, err := Open(cmd.Process.Pid)
	if err != nil || p == nil {
		t.Fatal(p, err)
	}
	defer p.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	if err := p.Wait(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("waiting for one that lives: %v", err)
	}
	// Nobody has reaped it when this returns.
	if err := p.Kill(t.Context()); err != nil {
		t.Error(err)
	}
	if err := cmd.Wait(); err == nil || err.Error() != "signal: killed" {
		t.Errorf("it ended with %v", err)
	}
	if err := p.Kill(t.Context()); err != nil {
		t.Errorf("once more: %v", err)
	}
	again, err := Open(cmd.Process.Pid)
	if err != nil || again != nil {
		t.Errorf("opened after its end: %v, %v", again, err)
	}
	if err := errors.Join(again.Kill(t.Context()), again.Wait(t.Context())); err != nil {
		t.Error(err)
	}
	again.Close()
}

func TestTheFirstProcessIsNobodys(t *testing.T) {
	for _, pid := range []int{-1, 0, 1} {
		if p, err := Open(pid); p != nil || err != nil {
			t.Errorf("%d: %v, %v", pid, p, err)
		}
	}
}
