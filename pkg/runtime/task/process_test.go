package task

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	taskapi "github.com/containerd/containerd/api/runtime/task/v2"
	tasktypes "github.com/containerd/containerd/api/types/task"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/types/known/anypb"
)

func TestAnExecRunsBesideTheContainersFirstProcess(t *testing.T) {
	t.Parallel()
	r := newRig(t, hooks{})
	r.run(spec{id: "c1", args: forever()})
	out := fifo(t)
	output := reading(t, out)
	r.exec("c1", "e1", sh("echo hello; exit 9"), StdioConfig{Stdout: out})
	wantEqual(t, "exec before its start", r.status("c1", "e1"), tasktypes.Status_CREATED)
	r.start("c1", "e1")
	wantEqual(t, "exit status", r.wait("c1", "e1"), 9)
	wantEqual(t, "output", string(output()), "hello\n")
	resp, err := r.delete("c1", "e1")
	if err != nil {
		t.Fatal(err)
	}
	wantEqual(t, "exit status in delete's answer", resp.GetExitStatus(), 9)
	_, err = r.delete("c1", "e1")
	wantCode(t, err, codes.NotFound)
	wantEqual(t, "the container", r.status("c1", ""), tasktypes.Status_RUNNING)

	want := []string{"create c1", "start c1", "exec-added e1", "exec-started e1", "exit e1"}
	if got := r.sequence(); !slices.Equal(got, want) {
		t.Errorf("events %q, want %q", got, want)
	}
}

func TestExecIsRefusedWhereItMakesNoSense(t *testing.T) {
	t.Parallel()
	r := newRig(t, hooks{})
	exec := func(id, execID string) error {
		_, err := r.client.Exec(r.ctx, execRequest(t, id, execID, sh("true"), StdioConfig{}))
		return err
	}
	wantCode(t, exec("c1", "e1"), codes.NotFound)
	r.create(spec{id: "c1", args: forever()})
	wantCode(t, exec("c1", "e1"), codes.FailedPrecondition)
	r.start("c1", "")
	wantCode(t, exec("c1", ""), codes.InvalidArgument)
	wantCode(t, exec("c1", "e1"), codes.OK)
	wantCode(t, exec("c1", "e1"), codes.AlreadyExists)
	_, err := r.client.Exec(r.ctx, &taskapi.ExecProcessRequest{ID: "c1", ExecID: "e2", Spec: &anypb.Any{Value: []byte("{")}})
	wantCode(t, err, codes.InvalidArgument)

	if err := r.kill("c1", "", syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	r.wait("c1", "")
	wantCode(t, exec("c1", "e3"), codes.FailedPrecondition)
	_, err = r.client.Start(r.ctx, &taskapi.StartRequest{ID: "c1", ExecID: "e1"})
	wantCode(t, err, codes.FailedPrecondition)
	wantEqual(t, "an exec whose start failed", r.status("c1", "e1"), tasktypes.Status_STOPPED)
}

func TestAProcessIsStartedOnce(t *testing.T) {
	t.Parallel()
	r := newRig(t, hooks{})
	r.create(spec{id: "c1", args: forever()})
	results := make(chan error, 5)
	for range cap(results) {
		go func() {
			_, err := r.client.Start(r.ctx, &taskapi.StartRequest{ID: "c1"})
			results <- err
		}()
	}
	succeeded := 0
	for range cap(results) {
		if err := <-results; err == nil {
			succeeded++
		} else {
			wantCode(t, err, codes.FailedPrecondition)
		}
	}
	wantEqual(t, "starts that succeeded", succeeded, 1)
}

func TestAContainerThatDoesNotStartCanBeDeleted(t *testing.T) {
	t.Parallel()
	r := newRig(t, hooks{start: func(context.Context, string) error { return errInjected }})
	r.create(spec{id: "c1", args: forever()})
	_, err := r.client.Start(r.ctx, &taskapi.StartRequest{ID: "c1"})
	if err == nil || !strings.Contains(err.Error(), errInjected.Error()) {
		t.Fatalf("got %v, want the injected failure", err)
	}
	wantEqual(t, "exit status", r.wait("c1", ""), 255)
	if _, err := r.delete("c1", ""); err != nil {
		t.Fatal(err)
	}
	if got := r.sequence(); slices.Contains(got, "start c1") || slices.Contains(got, "exit c1") {
		t.Errorf("events %q of a process that never ran", got)
	}
}

func TestAStartThatWasGivenUpLeavesNoProcess(t *testing.T) {
	t.Parallel()
	entered := make(chan struct{})
	r := newRig(t, hooks{})
	r.run(spec{id: "c1", args: forever()})
	r.sandbox.hooks.exec = func(ctx context.Context, id string) error {
		close(entered)
		<-ctx.Done()
		return ctx.Err()
	}
	r.exec("c1", "e1", forever(), StdioConfig{})
	ctx, giveUp := context.WithCancel(r.ctx)
	go func() { <-entered; giveUp() }()
	if _, err := r.client.Start(ctx, &taskapi.StartRequest{ID: "c1", ExecID: "e1"}); err == nil {
		t.Fatal("the start succeeded")
	}
	// The client gives up by going away; the server notices by the deadline or the end of the connection.
	r.ttrpc.Close()
	limit := time.After(patience)
	c, _ := r.service.container("c1")
	p, err := c.process("e1")
	if err != nil {
		t.Fatal(err)
	}
	select {
	case <-p.exited:
	case <-limit:
		t.Fatal("the exec is still being started")
	}
	if calls := r.sandbox.called(); !slices.Contains(calls, "signal c1/e1 9 all=false") {
		t.Errorf("what may have been started was not killed: %q", calls)
	}
}

func TestAStartIsPublishedBeforeTheExitHoweverShortTheProcess(t *testing.T) {
	t.Parallel()
	r := newRig(t, hooks{})
	r.run(spec{id: "c1", args: forever()})
	for i := range 100 {
		id := fmt.Sprintf("e%d", i)
		r.exec("c1", id, []string{"true"}, StdioConfig{})
		r.start("c1", id)
		wantEqual(t, "exit status", r.wait("c1", id), 0)
		got := r.sequence()
		if slices.Index(got, "exec-started "+id) > slices.Index(got, "exit "+id) {
			t.Fatalf("events %q", got)
		}
	}
}

func TestExecsExitBeforeTheirContainer(t *testing.T) {
	t.Parallel()
	for name, execs := range map[string][]string{
		"one":  {"e1"},
		"many": {"e1", "e2", "e3", "e4", "e5"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t, hooks{})
			r.run(spec{id: "c1", args: forever()})
			for _, id := range execs {
				r.exec("c1", id, forever(), StdioConfig{})
				r.start("c1", id)
			}
			r.exec("c1", "never-started", forever(), StdioConfig{})
			if err := r.kill("c1", "", syscall.SIGKILL); err != nil {
				t.Fatal(err)
			}
			wantEqual(t, "exit of the container", r.wait("c1", ""), 137)
			got := r.sequence()
			for _, id := range execs {
				wantEqual(t, "exit of "+id, r.wait("c1", id), 137)
				if at := slices.Index(got, "exit "+id); at < 0 || at > slices.Index(got, "exit c1") {
					t.Errorf("events %q: %s does not end before its container", got, id)
				}
			}
			if slices.Contains(got, "exit never-started") {
				t.Errorf("events %q: an exec that was never started has ended", got)
			}
			wantEqual(t, "exit of what never ran", r.wait("c1", "never-started"), 137)
		})
	}
}

func TestKill(t *testing.T) {
	t.Parallel()
	r := newRig(t, hooks{})
	wantCode(t, r.kill("c1", "", syscall.SIGKILL), codes.NotFound)
	r.create(spec{id: "c1", args: sh("trap 'exit 4' USR1; while :; do sleep 0.01; done")})
	wantCode(t, r.kill("c1", "", syscall.SIGUSR1), codes.FailedPrecondition)
	r.start("c1", "")
	wantCode(t, r.kill("c1", "e1", syscall.SIGKILL), codes.NotFound)

	// The trap is not set at once; a signal that comes too early ends the shell by itself.
	if err := r.kill("c1", "", syscall.SIGUSR1); err != nil {
		t.Fatal(err)
	}
	if got := r.wait("c1", ""); got != 4 && got != 128+uint32(syscall.SIGUSR1) {
		t.Errorf("exit status %d after SIGUSR1", got)
	}
	wantCode(t, r.kill("c1", "", syscall.SIGKILL), codes.OK)
	wantCode(t, r.kill("c1", "", syscall.SIGTERM), codes.OK)
	wantCode(t, r.kill("c1", "", syscall.SIGUSR1), codes.NotFound)
}

func TestKillingAContainerThatWasNeverStartedEndsIt(t *testing.T) {
	t.Parallel()
	r := newRig(t, hooks{})
	r.create(spec{id: "c1", args: forever()})
	if err := r.kill("c1", "", syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	wantEqual(t, "exit status", r.wait("c1", ""), 143)
	r.await("exit c1")
	if _, err := r.delete("c1", ""); err != nil {
		t.Fatal(err)
	}
}

func TestWhenTheMachineDiesEverythingInItIsReportedKilled(t *testing.T) {
	t.Parallel()
	r := newRig(t, hooks{})
	r.run(spec{id: "pod", args: forever(), annotations: asPod()})
	r.run(spec{id: "c1", args: forever(), annotations: inPod("pod")})
	r.exec("c1", "e1", forever(), StdioConfig{})
	r.start("c1", "e1")
	r.create(spec{id: "c2", args: forever(), annotations: inPod("pod")})

	begin := time.Now()
	r.sandbox.die(errors.New("QEMU was killed by signal 9"))
	for _, p := range [][2]string{{"c1", "e1"}, {"c1", ""}, {"pod", ""}} {
		wantEqual(t, fmt.Sprintf("exit of %q", p), r.wait(p[0], p[1]), 137)
	}
	if took := time.Since(begin); took > patience {
		t.Errorf("it took %s", took)
	}
	<-r.service.machine().alive.Done() // the reason is logged before
	if !strings.Contains(r.log.String(), "QEMU was killed by signal 9") {
		t.Error("the reason is not in the log")
	}
	got := r.sequence()
	if slices.Index(got, "exit e1") > slices.Index(got, "exit c1") {
		t.Errorf("events %q: the exec does not end before its container", got)
	}
	wantCode(t, r.kill("c1", "", syscall.SIGKILL), codes.OK)
	for _, id := range []string{"c1", "c2", "pod"} {
		if _, err := r.delete(id, ""); err != nil {
			t.Errorf("delete %s: %v", id, err)
		}
	}
	if !slices.Contains(r.sandbox.called(), "stop") {
		t.Error("what the machine used was not given back")
	}
}

// The connections to a dying machine break one by one, and the news of its death comes last.
func TestCallsThatFailWhileTheMachineDiesAreTakenForItsDeath(t *testing.T) {
	t.Parallel()
	r := newRig(t, hooks{})
	r.run(spec{id: "pod", args: forever(), annotations: asPod()})
	r.run(spec{id: "c1", args: forever(), annotations: inPod("pod")})
	r.run(spec{id: "c2", args: sh("exit 0"), annotations: inPod("pod")})
	r.wait("c2", "")

	failing := func(context.Context, string) error {
		select {
		case <-r.sandbox.done:
			return nil
		default:
			return errInjected
		}
	}
	r.sandbox.hooks.signal, r.sandbox.hooks.remove = failing, failing
	killed, deleted := make(chan error, 1), make(chan error, 1)
	go func() { killed <- r.kill("c1", "", syscall.SIGKILL) }()
	go func() { _, err := r.delete("c2", ""); deleted <- err }()
	time.AfterFunc(100*time.Millisecond, func() { r.sandbox.die(errors.New("gone")) })
	wantCode(t, <-killed, codes.OK)
	wantCode(t, <-deleted, codes.OK)
}

func TestAnExitStatusThatTheDyingMachineTookAlongIs137(t *testing.T) {
	t.Parallel()
	waiting := make(chan struct{})
	r := newRig(t, hooks{wait: func(context.Context, string) error { close(waiting); return errInjected }})
	r.run(spec{id: "c1", args: sh("exit 0")})
	<-waiting
	r.sandbox.die(errors.New("gone"))
	wantEqual(t, "exit status", r.wait("c1", ""), 137)
}

func TestAMachineThatDiesWhileItsOutputHangsDoesNotHoldUpTheExit(t *testing.T) {
	t.Parallel()
	// The guest's side of a stream may never end: here a grandchild that outlives the machine holds it.
	r := newRig(t, hooks{})
	r.run(spec{id: "c1", args: sh("setsid sleep 60 & exec sleep 60")})
	r.sandbox.die(errors.New("gone"))
	begin := time.Now()
	wantEqual(t, "exit status", r.wait("c1", ""), 137)
	if took := time.Since(begin); took > drainGrace+stallLimit+patience {
		t.Errorf("it took %s", took)
	}
}

func TestAnExitStatusTheGuestCannotTellIs255(t *testing.T) {
	t.Parallel()
	r := newRig(t, hooks{wait: func(context.Context, string) error { return errInjected }})
	r.run(spec{id: "c1", args: sh("exit 0")})
	wantEqual(t, "exit status", r.wait("c1", ""), 255)
}

func TestAnExitStatusThatNoProcessHasIs255(t *testing.T) {
	t.Parallel()
	for _, lie := range []int{-1, 256, 1 << 30} {
		r := newRig(t, hooks{})
		r.sandbox.lie = lie
		r.run(spec{id: "c1", args: []string{"true"}})
		wantEqual(t, "exit status", r.wait("c1", ""), 255)
	}
}

func TestTheSignalThatEndsTheShimEndsItsContainers(t *testing.T) {
	t.Parallel()
	r := newRig(t, hooks{})
	r.run(spec{id: "c1", args: forever()})
	if err := r.service.Close(r.ctx); err != nil {
		t.Fatal(err)
	}
	r.await("exit c1")
	_, err := r.client.Create(r.ctx, r.request(spec{id: "c2", args: forever(), annotations: inPod("c1")}))
	wantCode(t, err, codes.Unavailable)
}

// Not parallel: it counts what the whole process has open.
func TestAHundredExecsLeaveNothingBehind(t *testing.T) {
	r := newRig(t, hooks{})
	r.run(spec{id: "c1", args: forever()})
	one := func(id string) {
		stdin, stdout, stderr := fifo(t), fifo(t), fifo(t)
		output, errors := reading(t, stdout), reading(t, stderr)
		r.exec("c1", id, []string{"cat"}, StdioConfig{Stdin: stdin, Stdout: stdout, Stderr: stderr})
		if _, err := r.client.CloseIO(r.ctx, &taskapi.CloseIORequest{ID: "c1", ExecID: id, Stdin: true}); err != nil {
			t.Fatal(err)
		}
		r.start("c1", id)
		wantEqual(t, "exit status", r.wait("c1", id), 0)
		if _, err := r.delete("c1", id); err != nil {
			t.Fatal(err)
		}
		output()
		errors()
	}
	one("first")
	files, goroutines := openFiles(t), runtime.NumGoroutine()
	for i := range 100 {
		one(fmt.Sprintf("e%d", i))
	}
	// The last ones may still be on their way out.
	const tolerance = 5
	if now := openFiles(t); now > files+tolerance {
		t.Errorf("%d files open, %d before", now, files)
	}
	if now := runtime.NumGoroutine(); now > goroutines+tolerance {
		t.Errorf("%d goroutines, %d before", now, goroutines)
	}
	if c, _ := r.service.container("c1"); len(c.allExecs()) != 0 {
		t.Errorf("%d execs remembered", len(c.allExecs()))
	}
}

func openFiles(t *testing.T) int {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(entries)
}
