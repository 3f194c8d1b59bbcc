package container

import (
	"errors"
	"os/exec"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/katadirect/katadirect/pkg/agent/process"
	"github.com/katadirect/katadirect/pkg/agent/reaper"
)

func TestWhoIsStoodInForDoesWhatThePauseProgramDoes(t *testing.T) {
	for _, tc := range []struct {
		signals []unix.Signal
		exits   bool
		status  int
	}{
		{[]unix.Signal{unix.SIGUSR1, unix.SIGUSR1, unix.SIGCHLD}, false, 0},
		{[]unix.Signal{unix.SIGTERM}, true, 0},
		{[]unix.Signal{unix.SIGINT}, true, 0},
		{[]unix.Signal{unix.SIGKILL}, true, 137},
	} {
		p := &pause{done: make(chan struct{})}
		for _, sig := range tc.signals {
			if err := p.Signal(sig); err != nil {
				t.Errorf("%s: %v", sig, err)
			}
		}
		if p.exited != tc.exits || tc.exits && p.Status() != tc.status {
			t.Errorf("%v: exited %v with %d", tc.signals, p.exited, p.status)
		}
		if tc.exits && !errors.Is(p.Signal(unix.SIGTERM), reaper.ErrExited) {
			t.Errorf("%v: a signal after the end was taken", tc.signals)
		}
	}
}

func TestTheProcessThatTakesThePlaceGetsTheSignalsAndGivesTheStatus(t *testing.T) {
	r := reaper.New()
	defer r.Stop()
	real := func() *process.Process {
		t.Helper()
		streams, ends, err := process.NewPipes(4096)
		if err != nil {
			t.Fatal(err)
		}
		defer ends.Close()
		child, err := r.Start(exec.Command("sleep", "1000000"))
		if err != nil {
			t.Fatal(err)
		}
		return process.New(child, streams)
	}
	p := &pause{done: make(chan struct{})}
	p.become(real())
	if p.standsIn() || p.PID() == 0 {
		t.Errorf("it still stands in; the process is %d", p.PID())
	}
	if err := p.Signal(unix.SIGUSR1); err != nil {
		t.Fatal(err)
	}
	if status := p.Status(); status != 128+int(unix.SIGUSR1) {
		t.Errorf("status %d", status)
	}

	// Told to end just when the process was being made.
	p = &pause{done: make(chan struct{})}
	if err := p.Signal(unix.SIGTERM); err != nil {
		t.Fatal(err)
	}
	late := real()
	p.become(late)
	<-late.Done()
	if status := p.Status(); status != 0 {
		t.Errorf("status %d, want that of the signal it had heeded", status)
	}
}
