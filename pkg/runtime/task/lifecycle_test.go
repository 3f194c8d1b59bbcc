package task

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	taskapi "github.com/containerd/containerd/api/runtime/task/v2"
	tasktypes "github.com/containerd/containerd/api/types/task"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/katadirect/katadirect/pkg/runtime/agentclient"
)

func TestAContainerAloneLivesThroughAllItsStates(t *testing.T) {
	t.Parallel()
	r := newRig(t, hooks{})
	r.create(spec{id: "c1", args: sh("read line; exit 7"), io: StdioConfig{Stdin: fifo(t)}})
	wantEqual(t, "after create", r.status("c1", ""), tasktypes.Status_CREATED)
	r.start("c1", "")
	wantEqual(t, "after start", r.status("c1", ""), tasktypes.Status_RUNNING)
	if _, err := r.client.CloseIO(r.ctx, &taskapi.CloseIORequest{ID: "c1", Stdin: true}); err != nil {
		t.Fatal(err)
	}
	wantEqual(t, "exit status", r.wait("c1", ""), 7)
	wantEqual(t, "after exit", r.status("c1", ""), tasktypes.Status_STOPPED)
	resp, err := r.delete("c1", "")
	if err != nil {
		t.Fatal(err)
	}
	wantEqual(t, "exit status in delete's answer", resp.GetExitStatus(), 7)
	_, err = r.client.State(r.ctx, &taskapi.StateRequest{ID: "c1"})
	wantCode(t, err, codes.NotFound)

	if got, want := r.sequence(), []string{"create c1", "start c1", "exit c1", "delete c1"}; !slices.Equal(got, want) {
		t.Errorf("events %q, want %q", got, want)
	}
	if !slices.Contains(r.sandbox.called(), "stop") {
		t.Errorf("the machine was not stopped: %q", r.sandbox.called())
	}
	if _, err := r.client.Shutdown(r.ctx, &taskapi.ShutdownRequest{ID: "c1"}); err != nil {
		t.Fatal(err)
	}
	select {
	case <-r.down:
	case <-time.After(patience):
		t.Error("the shim was not told to go")
	}
}

func TestAPodsMachineLivesAsLongAsItsSandboxContainer(t *testing.T) {
	t.Parallel()
	r := newRig(t, hooks{})
	r.run(spec{id: "pod", args: forever(), annotations: asPod()})
	r.run(spec{id: "c1", args: forever(), annotations: inPod("pod")})
	r.run(spec{id: "c2", args: sh("exit 3"), annotations: inPod("pod")})
	wantEqual(t, "machines booted", len(r.booted), 1)

	wantEqual(t, "exit of c2", r.wait("c2", ""), 3)
	if _, err := r.delete("c2", ""); err != nil {
		t.Fatal(err)
	}
	if _, err := r.client.Shutdown(r.ctx, &taskapi.ShutdownRequest{}); err != nil {
		t.Fatal(err)
	}
	wantEqual(t, "c1 after c2 is gone and shutdown was asked for", r.status("c1", ""), tasktypes.Status_RUNNING)

	for _, id := range []string{"c1", "pod"} {
		if err := r.kill(id, "", syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		wantEqual(t, "exit of "+id, r.wait(id, ""), 137)
		if _, err := r.delete(id, ""); err != nil {
			t.Fatal(err)
		}
	}
	calls := r.sandbox.called()
	stop := slices.Index(calls, "stop")
	if stop < slices.Index(calls, "remove c2") || stop < slices.Index(calls, "remove c1") {
		t.Errorf("the machine was stopped while containers were in it: %q", calls)
	}
}

func TestASecondContainerOfTheSameIDIsRefused(t *testing.T) {
	t.Parallel()
	release := make(chan struct{})
	r := newRig(t, hooks{boot: func(context.Context, string) error { <-release; return nil }})
	req := r.request(spec{id: "c1", args: forever()})
	var wg sync.WaitGroup
	results := make(chan error, 4)
	for range cap(results) {
		wg.Go(func() {
			_, err := r.client.Create(r.ctx, req)
			results <- err
		})
	}
	for range cap(results) - 1 {
		wantCode(t, <-results, codes.AlreadyExists)
	}
	close(release)
	wantCode(t, <-results, codes.OK)
	wg.Wait()
}

func TestAContainerInAPodNeedsThePodsMachine(t *testing.T) {
	t.Parallel()
	r := newRig(t, hooks{})
	_, err := r.client.Create(r.ctx, r.request(spec{id: "c1", args: forever(), annotations: inPod("pod")}))
	wantCode(t, err, codes.FailedPrecondition)

	r.run(spec{id: "pod", args: forever(), annotations: asPod()})
	_, err = r.client.Create(r.ctx, r.request(spec{id: "c1", args: forever(), annotations: inPod("other")}))
	wantCode(t, err, codes.InvalidArgument)
	_, err = r.client.Create(r.ctx, r.request(spec{id: "pod2", args: forever(), annotations: asPod()}))
	wantCode(t, err, codes.AlreadyExists)
	_, err = r.client.State(r.ctx, &taskapi.StateRequest{ID: "c1"})
	wantCode(t, err, codes.NotFound)
}

func TestASlowCreateDelaysNobodyElse(t *testing.T) {
	t.Parallel()
	entered, release := make(chan struct{}), make(chan struct{})
	r := newRig(t, hooks{create: func(_ context.Context, id string) error {
		if id == "slow" {
			close(entered)
			<-release
		}
		return nil
	}})
	r.run(spec{id: "pod", args: forever(), annotations: asPod()})
	slow := make(chan error, 1)
	req := r.request(spec{id: "slow", args: forever(), annotations: inPod("pod")})
	go func() { _, err := r.client.Create(r.ctx, req); slow <- err }()
	<-entered

	wantEqual(t, "the pod meanwhile", r.status("pod", ""), tasktypes.Status_RUNNING)
	r.run(spec{id: "quick", args: sh("exit 0"), annotations: inPod("pod")})
	wantEqual(t, "another container meanwhile", r.wait("quick", ""), 0)
	_, err := r.client.State(r.ctx, &taskapi.StateRequest{ID: "slow"})
	wantCode(t, err, codes.NotFound)

	close(release)
	wantCode(t, <-slow, codes.OK)
	wantEqual(t, "afterwards", r.status("slow", ""), tasktypes.Status_CREATED)
}

func TestAFailedCreateLeavesNothing(t *testing.T) {
	t.Parallel()
	for name, fail := range map[string]func(*hooks, func(context.Context, string) error){
		"machine":   func(h *hooks, f func(context.Context, string) error) { h.boot = f },
		"container": func(h *hooks, f func(context.Context, string) error) { h.create = f },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var h hooks
			failing := true
			fail(&h, func(context.Context, string) error {
				if failing {
					return errInjected
				}
				return nil
			})
			r := newRig(t, h)
			out := fifo(t)
			output := reading(t, out)
			_, err := r.client.Create(r.ctx, r.request(spec{id: "c1", args: forever(), io: StdioConfig{Stdout: out}}))
			if err == nil || !strings.Contains(err.Error(), errInjected.Error()) {
				t.Fatalf("got %v, want an error that says %q", err, errInjected)
			}
			output() // fails if the fifo is still open
			if name == "container" && !slices.Contains(r.sandbox.called(), "stop") {
				t.Error("the machine was not stopped")
			}
			_, err = r.client.State(r.ctx, &taskapi.StateRequest{ID: "c1"})
			wantCode(t, err, codes.NotFound)
			if len(r.sequence()) > 0 {
				t.Errorf("events %q of a container that never was", r.sequence())
			}
			_, err = r.client.Shutdown(r.ctx, &taskapi.ShutdownRequest{})
			wantCode(t, err, codes.OK)
			<-r.down
		})
	}
}

func TestACreateThatFailedCanBeRepeated(t *testing.T) {
	t.Parallel()
	attempts := 0
	r := newRig(t, hooks{boot: func(context.Context, string) error {
		if attempts++; attempts == 1 {
			return errInjected
		}
		return nil
	}})
	req := r.request(spec{id: "c1", args: forever()})
	if _, err := r.client.Create(r.ctx, req); err == nil {
		t.Fatal("the first create succeeded")
	}
	if _, err := r.client.Create(r.ctx, req); err != nil {
		t.Fatal(err)
	}
}

func TestDeletingIsRefusedWhileItRunsAndNotFoundAfterwards(t *testing.T) {
	t.Parallel()
	r := newRig(t, hooks{})
	r.run(spec{id: "c1", args: forever()})
	_, err := r.delete("c1", "")
	wantCode(t, err, codes.FailedPrecondition)
	if err := r.kill("c1", "", syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	r.wait("c1", "")

	results := make(chan error, 8)
	for range cap(results) {
		go func() { _, err := r.delete("c1", ""); results <- err }()
	}
	succeeded := 0
	for range cap(results) {
		if err := <-results; err == nil {
			succeeded++
		} else {
			wantCode(t, err, codes.NotFound)
		}
	}
	wantEqual(t, "deletes that succeeded", succeeded, 1)
}

func TestADeleteThatFailedCanBeRepeated(t *testing.T) {
	t.Parallel()
	failing := true
	r := newRig(t, hooks{remove: func(_ context.Context, id string) error {
		if failing && id == "c1" {
			return errInjected
		}
		return nil
	}})
	r.run(spec{id: "pod", args: forever(), annotations: asPod()})
	r.run(spec{id: "c1", args: sh("exit 5"), annotations: inPod("pod")})
	r.wait("c1", "")
	if _, err := r.delete("c1", ""); err == nil || !strings.Contains(err.Error(), errInjected.Error()) {
		t.Fatalf("got %v, want the injected failure", err)
	}
	wantEqual(t, "after the failure", r.status("c1", ""), tasktypes.Status_STOPPED)
	failing = false
	resp, err := r.delete("c1", "")
	if err != nil {
		t.Fatal(err)
	}
	wantEqual(t, "exit status", resp.GetExitStatus(), 5)
}

// containerd gives up a delete that takes too long, and asks for the state before it tries again: not found would mean to
// it that there is nothing left to do.
func TestADeleteThatItsCallerGaveUpIsAnsweredToTheNext(t *testing.T) {
	t.Parallel()
	for _, id := range []string{"c1", "pod"} {
		t.Run(id, func(t *testing.T) {
			t.Parallel()
			var removals atomic.Int64
			r := newRig(t, hooks{remove: func(_ context.Context, removed string) error {
				if removed == id {
					removals.Add(1)
					time.Sleep(300 * time.Millisecond)
				}
				return nil
			}})
			r.run(spec{id: "pod", args: forever(), annotations: asPod()})
			r.run(spec{id: "c1", args: sh("exit 5"), annotations: inPod("pod")})
			want := uint32(5)
			r.wait("c1", "")
			if id == "pod" {
				want = 137
				if _, err := r.delete("c1", ""); err != nil {
					t.Fatal(err)
				}
				if err := r.kill("pod", "", syscall.SIGKILL); err != nil {
					t.Fatal(err)
				}
				r.wait("pod", "")
			}
			ctx, cancel := context.WithTimeout(r.ctx, 100*time.Millisecond)
			defer cancel()
			if _, err := r.client.Delete(ctx, &taskapi.DeleteRequest{ID: id}); !errors.Is(err, context.DeadlineExceeded) && status.Code(err) != codes.DeadlineExceeded {
				t.Fatalf("the delete that takes too long: %v", err)
			}
			r.await("delete " + id)

			wantEqual(t, "state", r.status(id, ""), tasktypes.Status_STOPPED)
			resp, err := r.delete(id, "")
			if err != nil {
				t.Fatal(err)
			}
			wantEqual(t, "exit status", resp.GetExitStatus(), want)
			wantEqual(t, "removals", removals.Load(), 1)
			_, err = r.delete(id, "")
			wantCode(t, err, codes.NotFound)
		})
	}
}

// An answer can be lost at the last moment, too.
func TestAShimWithNothingLeftGoesThoughNobodyAsksItTo(t *testing.T) {
	t.Parallel()
	r := newRig(t, hooks{})
	r.service.askGrace = 50 * time.Millisecond
	r.run(spec{id: "pod", args: forever(), annotations: asPod()})
	time.Sleep(2 * r.service.askGrace)
	if isClosed(r.down) {
		t.Fatal("the shim went with a container in it")
	}
	if err := r.kill("pod", "", syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	r.wait("pod", "")
	if _, err := r.delete("pod", ""); err != nil {
		t.Fatal(err)
	}
	select {
	case <-r.down:
	case <-time.After(patience):
		t.Error("the shim stays")
	}
}

func TestDeleteWaitsForACreateThatItsCallerGaveUp(t *testing.T) {
	t.Parallel()
	entered, release := make(chan struct{}), make(chan struct{})
	r := newRig(t, hooks{create: func(context.Context, string) error { close(entered); <-release; return nil }})
	req := r.request(spec{id: "c1", args: forever()})
	ctx, giveUp := context.WithCancel(r.ctx)
	go r.client.Create(ctx, req) //nolint:errcheck // given up
	<-entered
	giveUp()
	deleted := make(chan error, 1)
	go func() { _, err := r.delete("c1", ""); deleted <- err }()
	close(release)
	wantCode(t, <-deleted, codes.OK)
	if calls := r.sandbox.called(); !slices.Contains(calls, "stop") {
		t.Errorf("the machine was not stopped: %q", calls)
	}
}

func TestWhatAMachineCannotDoSaysSo(t *testing.T) {
	t.Parallel()
	r := newRig(t, hooks{})
	_, err := r.client.Checkpoint(r.ctx, &taskapi.CheckpointTaskRequest{ID: "c1"})
	wantCode(t, err, codes.Unimplemented)
	req := r.request(spec{id: "c1", args: forever()})
	req.Checkpoint = "/somewhere"
	_, err = r.client.Create(r.ctx, req)
	wantCode(t, err, codes.Unimplemented)
	_, err = r.client.Create(r.ctx, r.request(spec{id: "c1", args: forever(), io: StdioConfig{Stdout: "journal:///bin/logger"}}))
	wantCode(t, err, codes.Unimplemented)
}

func TestACrashInOneCallIsAnErrorOfThatCall(t *testing.T) {
	t.Parallel()
	r := newRig(t, hooks{remove: func(context.Context, string) error { panic("at the disco") }})
	r.run(spec{id: "c1", args: sh("exit 0")})
	r.wait("c1", "")
	_, err := r.delete("c1", "")
	wantCode(t, err, codes.Internal)
	if err == nil || !strings.Contains(err.Error(), "at the disco") {
		t.Errorf("got %v, want the panic's text", err)
	}
}

func TestVersion3IsAnsweredToo(t *testing.T) {
	t.Parallel()
	r := newRig(t, hooks{})
	r.run(spec{id: "c1", args: forever()})
	var resp taskapi.StateResponse
	if err := r.ttrpc.Call(r.ctx, "containerd.task.v3.Task", "State", &taskapi.StateRequest{ID: "c1"}, &resp); err != nil {
		t.Fatal(err)
	}
	wantEqual(t, "status", resp.GetStatus(), tasktypes.Status_RUNNING)
}

func TestConnectAndPidsNameTheHypervisor(t *testing.T) {
	t.Parallel()
	r := newRig(t, hooks{})
	_, err := r.client.Pids(r.ctx, &taskapi.PidsRequest{ID: "c1"})
	wantCode(t, err, codes.NotFound) // by this containerd recognises a shim whose create never came
	_, err = r.client.Connect(r.ctx, &taskapi.ConnectRequest{ID: "c1"})
	wantCode(t, err, codes.NotFound) // by this containerd 1.6 does
	r.run(spec{id: "c1", args: forever()})
	connect, err := r.client.Connect(r.ctx, &taskapi.ConnectRequest{ID: "c1"})
	if err != nil {
		t.Fatal(err)
	}
	pids, err := r.client.Pids(r.ctx, &taskapi.PidsRequest{ID: "c1"})
	if err != nil {
		t.Fatal(err)
	}
	if len(pids.GetProcesses()) != 1 || pids.GetProcesses()[0].GetPid() != connect.GetTaskPid() ||
		int(connect.GetTaskPid()) != r.sandbox.PID() {
		t.Errorf("connect %v, pids %v, want the hypervisor's pid %d in both", connect, pids, r.sandbox.PID())
	}
}

func TestPauseAndResume(t *testing.T) {
	t.Parallel()
	r := newRig(t, hooks{})
	r.create(spec{id: "c1", args: forever()})
	_, err := r.client.Pause(r.ctx, &taskapi.PauseRequest{ID: "c1"})
	wantCode(t, err, codes.FailedPrecondition)
	r.start("c1", "")
	_, err = r.client.Resume(r.ctx, &taskapi.ResumeRequest{ID: "c1"})
	wantCode(t, err, codes.FailedPrecondition)
	if _, err := r.client.Pause(r.ctx, &taskapi.PauseRequest{ID: "c1"}); err != nil {
		t.Fatal(err)
	}
	wantEqual(t, "paused", r.status("c1", ""), tasktypes.Status_PAUSED)
	_, err = r.client.Exec(r.ctx, execRequest(t, "c1", "e1", sh("true"), StdioConfig{}))
	wantCode(t, err, codes.FailedPrecondition)
	if _, err := r.client.Resume(r.ctx, &taskapi.ResumeRequest{ID: "c1"}); err != nil {
		t.Fatal(err)
	}
	wantEqual(t, "resumed", r.status("c1", ""), tasktypes.Status_RUNNING)
	for _, event := range []string{"paused c1", "resumed c1"} {
		r.await(event)
	}
}

func TestTheReasonOfADeadMachineIsInTheErrorsItCauses(t *testing.T) {
	t.Parallel()
	r := newRig(t, hooks{})
	r.run(spec{id: "pod", args: forever(), annotations: asPod()})
	r.sandbox.hooks.create = func(context.Context, string) error {
		r.sandbox.die(errors.New("QEMU was killed"))
		<-r.service.machine().alive.Done()
		return errInjected
	}
	_, err := r.client.Create(r.ctx, r.request(spec{id: "c1", args: forever(), annotations: inPod("pod")}))
	if err == nil || !strings.Contains(err.Error(), "QEMU was killed") {
		t.Errorf("got %v, want the reason why the machine is gone", err)
	}
}

// The connection to the agent ends before anybody knows why: virtiofsd's death, for one, is looked into first.
func TestTheReasonOfAMachinesEndIsWaitedFor(t *testing.T) {
	t.Parallel()
	r := newRig(t, hooks{})
	r.run(spec{id: "pod", args: forever(), annotations: asPod()})
	r.sandbox.hooks.create = func(context.Context, string) error {
		time.AfterFunc(dyingGrace/10, func() { r.sandbox.die(errors.New("the file share is gone")) })
		return fmt.Errorf("agent: CreateContainer: %w", agentclient.ErrGone)
	}
	_, err := r.client.Create(r.ctx, r.request(spec{id: "c1", args: forever(), annotations: inPod("pod")}))
	if err == nil || !strings.Contains(err.Error(), "the file share is gone") {
		t.Errorf("got %v, want the reason why the machine is gone", err)
	}
}
