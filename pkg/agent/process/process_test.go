package process_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/katadirect/katadirect/pkg/agent/process"
	"github.com/katadirect/katadirect/pkg/agent/reaper"
)

var r *reaper.Reaper

func TestMain(m *testing.M) {
	r = reaper.New()
	code := m.Run()
	r.Stop()
	os.Exit(code)
}

// start runs a shell script as a process with pipes.
func start(t *testing.T, script string) *process.Process {
	t.Helper()
	streams, ends, err := process.NewPipes(process.DefaultPipeSize)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("/bin/sh", "-c", script)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = ends.Stdin, ends.Stdout, ends.Stderr
	child, err := r.Start(cmd)
	ends.Close()
	if err != nil {
		t.Fatal(err)
	}
	p := process.New(child, streams)
	t.Cleanup(func() {
		_ = p.Signal(unix.SIGKILL)
		p.Close()
	})
	return p
}

// readAll reads a stream in pieces of at most limit bytes until its end.
func readAll(t *testing.T, read func(context.Context, int) ([]byte, error), limit int) []byte {
	t.Helper()
	var all []byte
	for {
		data, err := read(t.Context(), limit)
		if err != nil {
			t.Fatal(err)
		}
		if len(data) == 0 {
			return all
		}
		if len(data) > limit {
			t.Fatalf("read %d bytes, asked for %d", len(data), limit)
		}
		all = append(all, data...)
	}
}

func TestOutputIsCompleteToTheLastByte(t *testing.T) {
	p := start(t, "head -c 10000001 /dev/urandom | tee /dev/stderr; printf end")
	done := make(chan []byte)
	go func() { done <- readAll(t, p.ReadStderr, 100_000) }()
	out := readAll(t, p.ReadStdout, 1<<20)
	errOut := <-done
	if len(out) != 10000004 || !bytes.HasSuffix(out, []byte("end")) {
		t.Errorf("%d bytes, want 10000004", len(out))
	}
	if sha256.Sum256(out[:len(errOut)]) != sha256.Sum256(errOut) {
		t.Error("the two streams differ")
	}
	if !p.Drained() {
		t.Error("not drained at the end of both streams")
	}
}

// The reader comes long after the process has exited and the time that is
// granted to others is over.
func TestWhatWasWrittenBeforeTheExitIsDeliveredHoweverLate(t *testing.T) {
	const size = 900_000
	p := start(t, fmt.Sprintf("(sleep 60; echo late) & head -c %d /dev/zero", size))
	if _, err := p.Wait(t.Context()); err != nil {
		t.Fatal(err)
	}
	<-time.After(700 * time.Millisecond) // past the grace, which is what is tested
	if got := len(readAll(t, p.ReadStdout, 4096)); got != size {
		t.Errorf("%d bytes, want %d", got, size)
	}
}

func TestABackgroundProcessDoesNotHoldTheStreamOpen(t *testing.T) {
	p := start(t, "(while :; do echo noise; sleep 0.01; done) & echo $!")
	begin := time.Now()
	out := readAll(t, p.ReadStdout, 4096)
	if took := time.Since(begin); took > 10*time.Second {
		t.Errorf("the stream ended after %v", took)
	}
	var pid int
	if _, err := fmt.Sscan(string(out), &pid); err == nil {
		_ = unix.Kill(pid, unix.SIGKILL)
	}
}

func TestStdinReachesTheProcessAndEndsWhenClosed(t *testing.T) {
	p := start(t, "cat")
	want := bytes.Repeat([]byte("0123456789abcdef"), 200_000)
	failed := make(chan error, 1)
	go func() {
		n, err := p.WriteStdin(context.Background(), want)
		if err == nil && n != len(want) {
			err = fmt.Errorf("wrote %d bytes", n)
		}
		failed <- errors.Join(err, p.CloseStdin(), p.CloseStdin())
	}()
	got := readAll(t, p.ReadStdout, 1<<20)
	if err := <-failed; err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("got %d bytes back, want %d", len(got), len(want))
	}
	if _, err := p.WriteStdin(t.Context(), []byte("x")); !errors.Is(err, process.ErrStdinClosed) {
		t.Errorf("write to a closed stream: %v", err)
	}
}

func TestAWriteThatNobodyReadsEndsWithItsContextAndTheProcess(t *testing.T) {
	p := start(t, "sleep 60")
	big := make([]byte, 1<<20)
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := p.WriteStdin(ctx, big); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("%v, want the context's error", err)
	}
	failed := make(chan error, 1)
	go func() { _, err := p.WriteStdin(context.Background(), big); failed <- err }()
	if err := p.Signal(unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if err := <-failed; !errors.Is(err, process.ErrStdinClosed) {
		t.Errorf("write to a killed process: %v", err)
	}
}

func TestACancelledReadLosesNothing(t *testing.T) {
	p := start(t, "read x; echo $x")
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Millisecond)
	defer cancel()
	if _, err := p.ReadStdout(ctx, 100); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("%v, want the context's error", err)
	}
	if _, err := p.WriteStdin(t.Context(), []byte("hello\n")); err != nil {
		t.Fatal(err)
	}
	if got := string(readAll(t, p.ReadStdout, 100)); got != "hello\n" {
		t.Errorf("got %q", got)
	}
}

func TestExitStatusAndSignals(t *testing.T) {
	p := start(t, "exec sleep 60")
	if p.Exited() {
		t.Fatal("exited at once")
	}
	if err := p.Resize(1, 1); !errors.Is(err, process.ErrNoTerminal) {
		t.Errorf("resize without a terminal: %v", err)
	}
	if err := p.Signal(unix.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if status, err := p.Wait(t.Context()); err != nil || status != 143 {
		t.Errorf("status %d, %v; want 143", status, err)
	}
	if err := p.Signal(unix.SIGTERM); err != nil {
		t.Errorf("a signal to an exited process: %v", err)
	}
}

func TestCloseEndsAReadUnderWay(t *testing.T) {
	p := start(t, "sleep 60")
	done := make(chan error, 1)
	go func() {
		data, err := p.ReadStdout(context.Background(), 1)
		if len(data) != 0 {
			err = fmt.Errorf("read %q", data)
		}
		done <- err
	}()
	if err := p.Close(); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil {
		t.Error(err)
	}
}
