package reaper_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/katadirect/katadirect/pkg/agent/reaper"
)

// The tests of this package own every wait in the process: one Reaper, as in
// the agent. Orphans come to it because it is their subreaper.
var r *reaper.Reaper

func TestMain(m *testing.M) {
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	r = reaper.New()
	code := m.Run()
	r.Stop()
	os.Exit(code)
}

func TestStatusIsTheExitCodeOr128AndTheSignal(t *testing.T) {
	for _, tc := range []struct {
		script string
		want   int
	}{
		{"exit 0", 0},
		{"exit 7", 7},
		{"kill -KILL $$", 137},
		{"kill -TERM $$", 143},
	} {
		child, err := r.Start(exec.Command("/bin/sh", "-c", tc.script))
		if err != nil {
			t.Fatal(err)
		}
		if got := child.Status(); got != tc.want {
			t.Errorf("%q: status %d, want %d", tc.script, got, tc.want)
		}
		if err := child.Signal(unix.SIGTERM); !errors.Is(err, reaper.ErrExited) {
			t.Errorf("signal to an exited process: %v, want ErrExited", err)
		}
	}
}

// leaveOrphan has a shell start script in the background and exit, and returns
// the background process's id.
func leaveOrphan(script string) (int, error) {
	out, status, err := r.Output(context.Background(), "/bin/sh", "-c", "("+script+") >/dev/null 2>&1 & echo $!")
	if err != nil || status != 0 {
		return 0, fmt.Errorf("status %d: %w", status, err)
	}
	return strconv.Atoi(strings.TrimSpace(string(out)))
}

func TestAdoptedOrphanIsWaitedFor(t *testing.T) {
	child, err := r.Adopt(func() (int, error) { return leaveOrphan("exec sleep 60") })
	if err != nil {
		t.Fatal(err)
	}
	if err := child.Signal(unix.SIGTERM); err != nil && !errors.Is(err, reaper.ErrExited) {
		t.Fatal(err)
	}
	child.Status()
}

func TestOrphanThatExitsBeforeItIsKnownKeepsItsStatus(t *testing.T) {
	child, err := r.Adopt(func() (int, error) {
		// It outlives its parent, which could collect it otherwise.
		pid, err := leaveOrphan("while kill -0 $$; do :; done; exit 9")
		if err != nil {
			return 0, err
		}
		return pid, gone(pid)
	})
	if err != nil {
		t.Fatal(err)
	}
	select {
	case <-child.Done():
	case <-time.After(10 * time.Second):
		t.Fatal("the orphan's exit was lost")
	}
	if got := child.Status(); got != 9 {
		t.Errorf("status %d, want 9", got)
	}
}

func TestOrphansThatNobodyKnowsAreReaped(t *testing.T) {
	pid, err := leaveOrphan("while kill -0 $$; do :; done")
	if err != nil {
		t.Fatal(err)
	}
	if err := gone(pid); err != nil {
		t.Error(err)
	}
}

// gone waits until there is no process with that id, zombies included.
func gone(pid int) error {
	for end := time.Now().Add(10 * time.Second); time.Now().Before(end); time.Sleep(time.Millisecond) {
		if err := unix.Kill(pid, 0); errors.Is(err, unix.ESRCH) {
			return nil
		}
	}
	return fmt.Errorf("process %d was not reaped", pid)
}

func TestFailedAdoptionLeavesNothing(t *testing.T) {
	sentinel := errors.New("no")
	if _, err := r.Adopt(func() (int, error) { return 0, sentinel }); !errors.Is(err, sentinel) {
		t.Errorf("error %v, want the one of start", err)
	}
}

func TestOutputReturnsBothStreamsAndTheStatus(t *testing.T) {
	out, status, err := r.Output(t.Context(), "/bin/sh", "-c", "echo one; echo two >&2; exit 3")
	if err != nil || status != 3 || string(out) != "one\ntwo\n" {
		t.Errorf("output %q, status %d, %v", out, status, err)
	}
}

func TestOutputIsBoundedAndDoesNotStallTheProgram(t *testing.T) {
	out, _, err := r.Output(t.Context(), "/bin/sh", "-c", "head -c 1000000 /dev/zero; exit 0")
	if err != nil || len(out) > 64<<10 {
		t.Errorf("%d bytes, %v", len(out), err)
	}
}

func TestOutputKillsTheProgramWithItsContext(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	_, status, err := r.Output(ctx, "sleep", "60")
	if !errors.Is(err, context.DeadlineExceeded) || status != 137 {
		t.Errorf("status %d, %v", status, err)
	}
}

func TestOutputOfAMissingProgramIsAnError(t *testing.T) {
	if _, _, err := r.Output(t.Context(), "/no/such/program"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("%v, want ErrNotExist", err)
	}
}
