package sandbox

import (
	"log/slog"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// busy starts a process that would run all the time, on the first processor, and at that niceness.
func busy(t *testing.T, nice int) *exec.Cmd {
	t.Helper()
	cmd := exec.Command("sh", "-c", "while :; do :; done")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	var first unix.CPUSet
	if err := unix.SchedGetaffinity(0, &first); err != nil {
		t.Fatal(err)
	}
	for cpu := range len(first) * 64 {
		if first.IsSet(cpu) {
			first.Zero()
			first.Set(cpu)
			break
		}
	}
	if err := unix.SchedSetaffinity(cmd.Process.Pid, &first); err != nil {
		t.Fatal(err)
	}
	if err := unix.Setpriority(unix.PRIO_PROCESS, cmd.Process.Pid, nice); err != nil {
		t.Fatal(err)
	}
	return cmd
}

// lines is a log that is read while it is written.
type lines struct {
	mu  sync.Mutex
	all strings.Builder
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.all.Write(p)
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.all.String()
}

func TestAMachineThatTheHostDoesNotLetRunIsNotTakenForDead(t *testing.T) {
	h := newHost(t)
	h.options.times.checkDeadline = 2 * time.Second
	var said lines
	h.options.Log = slog.New(slog.NewTextHandler(&said, nil))
	// They stand for the machine's process and for what keeps it from running.
	h.machine.pid = busy(t, 19).Process.Pid
	hogs := []*exec.Cmd{busy(t, 0), busy(t, 0), busy(t, 0)}
	s := h.create()
	t.Cleanup(h.agent.stopAnswering())

	select {
	case <-s.Done():
		t.Fatalf("it was killed: %v", s.Err())
	case <-time.After(2*h.options.times.checkDeadline + h.options.times.checkDeadline/2):
	}
	if said := said.String(); !strings.Contains(said, "want of processor time") {
		t.Errorf("nothing says why nothing goes on:\n%s", said)
	}
	// Now that it may run and says nothing all the same, it is dead.
	for _, hog := range hogs {
		_ = hog.Process.Kill()
	}
	select {
	case <-s.Done():
	case <-time.After(time.Minute):
		t.Fatal("it was not noticed that the guest is dead")
	}
	if err := s.Err(); err == nil || !strings.Contains(err.Error(), "guest is dead") {
		t.Errorf("reason %v", err)
	}
}

// A guest that never answers again is dead in the end, however busy the host is.
func TestPatienceWithABusyHostHasAnEnd(t *testing.T) {
	h := newHost(t)
	s := h.create()
	p := &patience{sandbox: s}
	silence := func() bool {
		p.Ask()
		for thread, turns := range p.turns {
			turns.waited -= time.Minute
			p.turns[thread] = turns
		}
		return p.Wait()
	}
	for range maxStarved {
		if !silence() {
			t.Fatalf("given up after %d times", p.starved)
		}
	}
	if silence() {
		t.Fatal("asked for ever")
	}
	p.Ask() // nothing in between: it was silent
	p.Ask() // it has answered meanwhile
	if p.starved != 0 {
		t.Errorf("an answer does not count: %d", p.starved)
	}
}

func TestWhatAThreadWaited(t *testing.T) {
	const apart = 10 * time.Second
	for what, c := range map[string]struct {
		before, after turns
		want          time.Duration
	}{
		"asleep":                   {turns{}, turns{}, 0},
		"ran all the time":         {turns{ready: true}, turns{ran: apart, ready: true}, 0},
		"had few turns":            {turns{ready: true}, turns{ran: time.Second, waited: 9 * time.Second, ready: true}, 9 * time.Second},
		"had no turn":              {turns{ready: true}, turns{ready: true}, apart},
		"has just woken":           {turns{}, turns{ready: true}, 0},
		"waited before it slept":   {turns{ready: true}, turns{waited: 3 * time.Second}, 3 * time.Second},
		"waited before the moment": {turns{waited: time.Hour}, turns{waited: time.Hour}, 0},
	} {
		t.Run(what, func(t *testing.T) {
			before := map[string]turns{"1": c.before, "2": {}}
			if got := longestWait(before, map[string]turns{"1": c.after, "2": {}, "3": {waited: time.Hour}}, apart); got != c.want {
				t.Errorf("%s, want %s", got, c.want)
			}
		})
	}
}
