package task

import (
	"fmt"
	"io"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	tasktypes "github.com/containerd/containerd/api/types/task"
	"golang.org/x/sys/unix"
)

// speak runs a container that writes want and ends, and returns containerd's end of its fifo, from which nobody reads.
func speak(t *testing.T, r *rig, want []byte) *os.File {
	t.Helper()
	stdout := fifo(t)
	reader, err := os.OpenFile(stdout, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { reader.Close() })
	r.run(spec{id: "c1", args: sh(fmt.Sprintf("cat %s; exit 4", inFile(t, want))), io: StdioConfig{Stdout: stdout}})
	return reader
}

// awaitReaped waits until the guest has no such process any more.
func (r *rig) awaitReaped(id string) {
	r.Helper()
	c, err := r.service.container(id)
	if err != nil {
		r.Fatal(err)
	}
	select {
	case <-c.init.reaped:
	case <-time.After(patience):
		r.Fatal("the guest does not tell of the end")
	}
}

// containerd 1.6 stops reading at the news of the exit.
func TestAnExitIsReportedWhenTheOutputHasBeenRead(t *testing.T) {
	t.Parallel()
	for name, away := range map[string]bool{"by a slow reader": false, "by one that comes back": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t, hooks{})
			r.service.stallLimit = 1500 * time.Millisecond // reading takes twice as long
			r.away.Store(away)
			want := noise(200_000)
			reader := speak(t, r, want)
			r.awaitReaped("c1")
			got := make([]byte, len(want))
			if away {
				time.Sleep(2 * r.service.stallLimit) // absence of any length
			}
			for i := 0; i < len(got); i += len(got) / 10 {
				time.Sleep(r.service.stallLimit / 5)
				r.away.Store(false)
				wantEqual(t, "state while output is unread", r.status("c1", ""), tasktypes.Status_RUNNING)
				if _, err := io.ReadFull(reader, got[i:i+len(got)/10]); err != nil {
					t.Fatal(err)
				}
			}
			wantBytes(t, "output", got, want)
			wantEqual(t, "exit status", r.wait("c1", ""), 4)
		})
	}
}

func TestAnExitIsReportedThoughNobodyReads(t *testing.T) {
	t.Parallel()
	r := newRig(t, hooks{})
	r.service.stallLimit = 100 * time.Millisecond
	reader := speak(t, r, []byte("unread"))
	wantEqual(t, "exit status", r.wait("c1", ""), 4)
	if !strings.Contains(r.log.String(), "nobody reads it") {
		t.Error("the log does not say why it took so long")
	}
	if got, err := io.ReadAll(reader); err != nil || string(got) != "unread" {
		t.Errorf("afterwards there is %q, %v", got, err)
	}
}

func TestContainerdThatComesBackAndDoesNotReadIsWaitedForALittleLonger(t *testing.T) {
	t.Parallel()
	r := newRig(t, hooks{})
	r.service.stallLimit, r.service.returnGrace = 10*time.Millisecond, 300*time.Millisecond
	r.away.Store(true)
	speak(t, r, []byte("unread"))
	r.awaitReaped("c1")
	time.Sleep(r.service.returnGrace)
	begin := time.Now()
	r.away.Store(false)
	wantEqual(t, "exit status", r.wait("c1", ""), 4)
	if took := time.Since(begin); took < r.service.returnGrace/2 {
		t.Errorf("it was reported after %s", took)
	}
}

// It has ended, whatever is told of it: signals that ask for that succeed, and the machine need not be stopped for it.
func TestAContainerWhoseExitIsHeldBackHasEnded(t *testing.T) {
	t.Parallel()
	r := newRig(t, hooks{})
	r.service.killLimit = 50 * time.Millisecond
	r.away.Store(true)
	reader := speak(t, r, []byte("unread"))
	r.awaitReaped("c1")
	for _, sig := range []syscall.Signal{syscall.SIGTERM, syscall.SIGKILL} {
		if err := r.kill("c1", "", sig); err != nil {
			t.Errorf("%s: %v", sig, err)
		}
	}
	time.Sleep(2 * r.service.killLimit)
	wantEqual(t, "state", r.status("c1", ""), tasktypes.Status_RUNNING)
	if _, err := io.ReadFull(reader, make([]byte, len("unread"))); err != nil {
		t.Fatal(err)
	}
	wantEqual(t, "exit status", r.wait("c1", ""), 4)
}

func TestAShimThatGoesWaitsForNoContainerd(t *testing.T) {
	t.Parallel()
	r := newRig(t, hooks{})
	r.service.stallLimit = 50 * time.Millisecond
	r.away.Store(true)
	speak(t, r, []byte("unread"))
	r.awaitReaped("c1")
	begin := time.Now()
	if err := r.service.Close(r.ctx); err != nil {
		t.Fatal(err)
	}
	if took := time.Since(begin); took > patience {
		t.Errorf("it took %s", took)
	}
	r.await("exit c1")
}

// The exits of all execs come before it, so there can be no more of them.
func TestAContainerWhoseExitIsHeldBackTakesNoMoreExecs(t *testing.T) {
	t.Parallel()
	r := newRig(t, hooks{})
	r.away.Store(true) // for as long as the test wants
	reader := speak(t, r, []byte("unread"))
	r.awaitReaped("c1")
	wantEqual(t, "state while output is unread", r.status("c1", ""), tasktypes.Status_RUNNING)
	_, err := r.client.Exec(r.ctx, execRequest(t, "c1", "late", sh("sleep 1000"), StdioConfig{}))
	if err == nil || !strings.Contains(err.Error(), "it has ended") {
		t.Errorf("an exec after the end: %v, want a refusal", err)
	}
	if _, err := io.ReadFull(reader, make([]byte, len("unread"))); err != nil {
		t.Fatal(err)
	}
	wantEqual(t, "exit status", r.wait("c1", ""), 4)
}
