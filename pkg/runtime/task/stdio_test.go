package task

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	taskapi "github.com/containerd/containerd/api/runtime/task/v2"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
)

// noise makes n bytes that no text tool would pass on unharmed.
func noise(n int) []byte {
	data := make([]byte, n)
	source := rand.NewChaCha8([32]byte{1})
	_, _ = source.Read(data)
	return data
}

func inFile(t *testing.T, data []byte) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "data")
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func wantBytes(t *testing.T, what string, got, want []byte) {
	t.Helper()
	if !bytes.Equal(got, want) {
		t.Errorf("%s: %d bytes with sum %x, want %d with %x", what, len(got), sha256.Sum256(got), len(want), sha256.Sum256(want))
	}
}

func TestOutputIsCompleteWhenTheExitIsPublished(t *testing.T) {
	t.Parallel()
	want := noise(64 << 20)
	file := inFile(t, want)
	r := newRig(t, hooks{})
	stdout, stderr := fifo(t), fifo(t)
	readOut, readErr := reading(t, stdout), reading(t, stderr)
	r.run(spec{
		id: "c1", args: sh(fmt.Sprintf("cat %s; tail -c 1000000 %s >&2; exit 6", file, file)),
		io: StdioConfig{Stdout: stdout, Stderr: stderr},
	})
	r.await("exit c1")
	// What is missing now would never come: both fifos are closed on the shim's side.
	wantBytes(t, "stdout", readOut(), want)
	wantBytes(t, "stderr", readErr(), want[len(want)-1000000:])
	wantEqual(t, "exit status", r.wait("c1", ""), 6)
}

func TestInputArrivesWholeAndEnds(t *testing.T) {
	t.Parallel()
	want := noise(16 << 20)
	r := newRig(t, hooks{})
	stdin, stdout := fifo(t), fifo(t)
	output := reading(t, stdout)
	r.run(spec{id: "c1", args: []string{"cat"}, io: StdioConfig{Stdin: stdin, Stdout: stdout}})
	w, err := os.OpenFile(stdin, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(want); err != nil {
		t.Fatal(err)
	}
	// As ctr does: the end is announced while the last bytes are still in the fifo, and its own side closed after.
	if _, err := r.client.CloseIO(r.ctx, &taskapi.CloseIORequest{ID: "c1", Stdin: true}); err != nil {
		t.Fatal(err)
	}
	w.Close()
	wantEqual(t, "exit status", r.wait("c1", ""), 0)
	wantBytes(t, "what came back", output(), want)
}

func TestInputDoesNotEndBecauseAClientGoes(t *testing.T) {
	t.Parallel()
	r := newRig(t, hooks{})
	stdin, stdout := fifo(t), fifo(t)
	output := reading(t, stdout)
	r.run(spec{id: "c1", args: []string{"cat"}, io: StdioConfig{Stdin: stdin, Stdout: stdout}})
	for _, line := range []string{"first\n", "second\n"} {
		w, err := os.OpenFile(stdin, os.O_WRONLY, 0)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, line); err != nil {
			t.Fatal(err)
		}
		w.Close()
	}
	for range 2 { // closing twice is as good as once
		if _, err := r.client.CloseIO(r.ctx, &taskapi.CloseIORequest{ID: "c1", Stdin: true}); err != nil {
			t.Fatal(err)
		}
	}
	r.wait("c1", "")
	wantEqual(t, "output", string(output()), "first\nsecond\n")
}

// "echo hello | ctr run" has read the end of its input before the machine is up, and then never announces it.
func TestInputThatEndedBeforeTheStartIsAllThereIs(t *testing.T) {
	t.Parallel()
	r := newRig(t, hooks{})
	stdin, stdout := fifo(t), fifo(t)
	output := reading(t, stdout)
	r.create(spec{id: "c1", args: []string{"cat"}, io: StdioConfig{Stdin: stdin, Stdout: stdout}})
	if err := os.WriteFile(stdin, []byte("hello\n"), 0); err != nil {
		t.Fatal(err)
	}
	r.start("c1", "")
	wantEqual(t, "exit status", r.wait("c1", ""), 0)
	wantEqual(t, "output", string(output()), "hello\n")
}

func TestInputThatIsClosedBeforeTheStartEnds(t *testing.T) {
	t.Parallel()
	r := newRig(t, hooks{})
	r.create(spec{id: "c1", args: []string{"cat"}, io: StdioConfig{Stdin: fifo(t)}})
	if _, err := r.client.CloseIO(r.ctx, &taskapi.CloseIORequest{ID: "c1", Stdin: true}); err != nil {
		t.Fatal(err)
	}
	r.start("c1", "")
	wantEqual(t, "exit status", r.wait("c1", ""), 0)
}

func TestOutputSurvivesARestartOfContainerd(t *testing.T) {
	t.Parallel()
	want := noise(8 << 20)
	r := newRig(t, hooks{})
	stdout := fifo(t)
	open := func() *os.File {
		f, err := os.OpenFile(stdout, os.O_RDONLY|syscall.O_NONBLOCK, 0)
		if err != nil {
			t.Fatal(err)
		}
		return f
	}
	first := open()
	r.run(spec{id: "c1", args: []string{"cat", inFile(t, want)}, io: StdioConfig{Stdout: stdout}})
	got := make([]byte, 100_000)
	if _, err := io.ReadFull(first, got); err != nil {
		t.Fatal(err)
	}
	first.Close()
	second := open()
	defer second.Close()
	rest, err := io.ReadAll(second)
	if err != nil {
		t.Fatal(err)
	}
	wantBytes(t, "both parts together", append(got, rest...), want)
	wantEqual(t, "exit status", r.wait("c1", ""), 0)
}

func TestOutputThatNobodyReadsHoldsUpTheProcessUntilItIsKilled(t *testing.T) {
	t.Parallel()
	r := newRig(t, hooks{})
	stdout := fifo(t)
	idle, err := os.OpenFile(stdout, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer idle.Close()
	r.run(spec{id: "c1", args: []string{"cat", "/dev/zero"}, io: StdioConfig{Stdout: stdout}})
	awaitFull(t, idle)
	begin := time.Now()
	if err := r.kill("c1", "", syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	wantEqual(t, "exit status", r.wait("c1", ""), 137)
	if took := time.Since(begin); took > stallLimit+patience {
		t.Errorf("it took %s", took)
	}
	if !strings.Contains(r.log.String(), "thrown away") {
		t.Error("lost output is not mentioned in the log")
	}
}

// awaitFull waits until the fifo holds all that it can.
func awaitFull(t *testing.T, fifo *os.File) {
	t.Helper()
	size, err := unix.FcntlInt(fifo.Fd(), unix.F_GETPIPE_SZ, 0)
	if err != nil {
		t.Fatal(err)
	}
	limit := time.After(patience)
	for {
		held, err := unix.IoctlGetInt(int(fifo.Fd()), unix.TIOCINQ)
		if err != nil {
			t.Fatal(err)
		}
		if held == size {
			return
		}
		select {
		case <-time.After(time.Millisecond):
		case <-limit:
			t.Fatalf("the fifo holds %d of %d bytes", held, size)
		}
	}
}

// A reader that opens the fifo as containerd does, waiting for the writer, may be slower than the whole process.
func TestOutputWaitsForAReaderThatOpensTheFifoLate(t *testing.T) {
	t.Parallel()
	r := newRig(t, hooks{})
	stdout := fifo(t)
	started := make(chan struct{})
	read := make(chan string)
	go func() {
		<-started
		data, _ := os.ReadFile(stdout)
		read <- string(data)
	}()
	req := r.request(spec{id: "c1", args: sh("echo hello"), io: StdioConfig{Stdout: stdout}})
	created := make(chan error)
	go func() { _, err := r.client.Create(r.ctx, req); created <- err }()
	select {
	case err := <-created:
		t.Fatalf("create did not wait for the reader: %v", err)
	case <-time.After(50 * time.Millisecond):
	}
	close(started)
	wantCode(t, <-created, codes.OK)
	r.start("c1", "")
	wantEqual(t, "exit status", r.wait("c1", ""), 0)
	wantEqual(t, "output", <-read, "hello\n")
}

func TestAFifoThatNobodyOpensFailsTheCreate(t *testing.T) {
	t.Parallel()
	r := newRig(t, hooks{})
	ctx, cancel := context.WithTimeout(r.ctx, 100*time.Millisecond)
	defer cancel()
	stdout := fifo(t)
	if _, err := openStdio(ctx, StdioConfig{Stdout: stdout}, r.service.log); err == nil || !strings.Contains(err.Error(), "nobody reads "+stdout) {
		t.Errorf("got %v, want an error that names the fifo", err)
	}
	nobodyReads(t, stdout)
}

func TestAProcessWithoutStreamsIsNotHeldUp(t *testing.T) {
	t.Parallel()
	r := newRig(t, hooks{})
	r.run(spec{id: "c1", args: sh("head -c 5000000 /dev/zero; head -c 5000000 /dev/zero >&2; exit 2")})
	wantEqual(t, "exit status", r.wait("c1", ""), 2)
}

func TestOutputCanGoToAFile(t *testing.T) {
	t.Parallel()
	r := newRig(t, hooks{})
	path := filepath.Join(t.TempDir(), "deep", "down", "log")
	r.run(spec{id: "c1", args: sh("echo one; echo two"), io: StdioConfig{Stdout: "file://" + path}})
	wantEqual(t, "exit status", r.wait("c1", ""), 0)
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	wantEqual(t, "content", string(data), "one\ntwo\n")
}

func TestAFifoThatIsNotThereFailsTheCreate(t *testing.T) {
	t.Parallel()
	r := newRig(t, hooks{})
	for _, c := range []StdioConfig{{Stdin: "/nowhere/in"}, {Stdout: "/nowhere/out"}, {Stderr: "/nowhere/err"}} {
		_, err := r.client.Create(r.ctx, r.request(spec{id: "c1", args: forever(), io: c}))
		if err == nil || !strings.Contains(err.Error(), "/nowhere/") {
			t.Errorf("create with %+v: %v, want an error that names the path", c, err)
		}
	}
	if len(r.booted) > 0 {
		t.Error("a machine was booted for it")
	}
}

func TestATerminalHasOneStreamAndASize(t *testing.T) {
	t.Parallel()
	r := newRig(t, hooks{})
	stdout := fifo(t)
	output := reading(t, stdout)
	said := filepath.Join(t.TempDir(), "said")
	r.create(spec{id: "c1", args: sh("echo hello; : >" + said + "; exec sleep 1000000"), io: StdioConfig{Stdout: stdout, Terminal: true}})
	resize := func() error {
		_, err := r.client.ResizePty(r.ctx, &taskapi.ResizePtyRequest{ID: "c1", Width: 80, Height: 24})
		return err
	}
	wantCode(t, resize(), codes.FailedPrecondition)
	r.start("c1", "")
	wantCode(t, resize(), codes.OK)
	if !slices.Contains(r.sandbox.called(), "resize c1/ 80x24") {
		t.Errorf("calls %q", r.sandbox.called())
	}
	r.exec("c1", "e1", forever(), StdioConfig{})
	r.start("c1", "e1")
	_, err := r.client.ResizePty(r.ctx, &taskapi.ResizePtyRequest{ID: "c1", ExecID: "e1", Width: 80, Height: 24})
	wantCode(t, err, codes.FailedPrecondition)
	for {
		if _, err := os.Stat(said); err == nil {
			break
		}
		if r.ctx.Err() != nil {
			t.Fatal("the process does not come to its second command")
		}
		time.Sleep(time.Millisecond)
	}
	if err := r.kill("c1", "", syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	r.wait("c1", "")
	wantEqual(t, "output", string(output()), "hello\n")
}

// containerd may be away when a process ends, and comes for its output afterwards.
func TestOutputThatNobodyHasReadOutlivesTheProcess(t *testing.T) {
	t.Parallel()
	want := noise(50_000) // less than a fifo holds
	file := inFile(t, want)
	r := newRig(t, hooks{})
	stdout := fifo(t)
	containerd, err := os.OpenFile(stdout, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	r.create(spec{id: "c1", args: sh("cat " + file), io: StdioConfig{Stdout: stdout}})
	containerd.Close()
	r.start("c1", "")
	r.await("exit c1")
	wantEqual(t, "exit status", r.wait("c1", ""), 0)

	// Opened as containerd does: that alone waits for somebody who has the other end open.
	got := make(chan []byte, 1)
	go func() {
		data, _ := os.ReadFile(stdout)
		got <- data
	}()
	select {
	case data := <-got:
		wantBytes(t, "output read after the end", data, want)
	case <-time.After(patience):
		t.Fatal("the output is not to be had, or does not end")
	}
}

func TestOutputThatNobodyWantsEndsWithTheDelete(t *testing.T) {
	t.Parallel()
	r := newRig(t, hooks{})
	stdout := fifo(t)
	containerd, err := os.OpenFile(stdout, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	r.create(spec{id: "c1", args: sh("echo unread"), io: StdioConfig{Stdout: stdout}})
	containerd.Close()
	r.start("c1", "")
	r.await("exit c1")
	if _, err := r.delete("c1", ""); err != nil {
		t.Fatal(err)
	}
	nobodyReads(t, stdout)
}

// nobodyReads waits until nobody has the fifo open to read: a child that another test is starting has a copy of
// everything until its exec.
func nobodyReads(t *testing.T, path string) {
	t.Helper()
	for limit := time.Now().Add(patience); ; time.Sleep(time.Millisecond) {
		// With nobody on the other side there is nobody to write to.
		f, err := os.OpenFile(path, os.O_WRONLY|unix.O_NONBLOCK, 0)
		if errors.Is(err, unix.ENXIO) {
			return
		}
		f.Close()
		if time.Now().After(limit) {
			t.Fatalf("the shim still holds the fifo: %v", err)
		}
	}
}

// A guest that does not answer a read must not keep a goroutine and its buffer once the process is given up.
func TestAStreamThatTheGuestNeverAnswersEndsWithItsProcess(t *testing.T) {
	t.Parallel()
	r := newRig(t, hooks{})
	r.sandbox.mute = true
	r.service.killLimit = 50 * time.Millisecond
	r.run(spec{id: "c1", args: forever()})
	r.exec("c1", "e1", forever(), StdioConfig{})
	r.start("c1", "e1")
	r.sandbox.deaf.Store(true) // it does not end what it is told to
	if err := r.kill("c1", "e1", syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	wantEqual(t, "status of the exec that was given up", r.wait("c1", "e1"), 137)
	limit := time.Now().Add(patience)
	for r.sandbox.reading.Load() > 2 { // the container's own two go on
		if time.Now().After(limit) {
			t.Fatalf("%d reads wait for the guest", r.sandbox.reading.Load())
		}
		time.Sleep(time.Millisecond)
	}
}
