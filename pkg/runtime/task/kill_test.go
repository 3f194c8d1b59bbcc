package task

import (
	"context"
	"fmt"
	"slices"
	"syscall"
	"testing"
	"time"

	taskapi "github.com/containerd/containerd/api/runtime/task/v2"
)

// deaf is a guest that never tells of an exit.
var deaf = hooks{wait: func(ctx context.Context, _ string) error { <-ctx.Done(); return ctx.Err() }}

// newDeafRig is a rig whose service soon loses patience.
func newDeafRig(t *testing.T, h hooks) *rig {
	r := newRig(t, h)
	r.service.killLimit = 100 * time.Millisecond
	r.run(spec{id: "pod", args: forever(), annotations: asPod()})
	r.run(spec{id: "c1", args: forever(), annotations: inPod("pod")})
	return r
}

func TestAContainerThatTheGuestDoesNotEndEndsWithItsMachine(t *testing.T) {
	t.Parallel()
	for name, h := range map[string]hooks{
		"the guest obeys in words only": deaf,
		"the guest does not answer": {
			wait: deaf.wait, signal: func(context.Context, string) error { return errInjected },
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newDeafRig(t, h)
			_ = r.kill("c1", "", syscall.SIGKILL)
			wantEqual(t, "exit of the container", r.wait("c1", ""), 137)
			wantEqual(t, "exit of the pod", r.wait("pod", ""), 137)
			if !slices.Contains(r.sandbox.called(), "stop") {
				t.Error("the container is reported as ended, and the machine still runs")
			}
		})
	}
}

func TestAnExecThatTheGuestDoesNotEndIsReportedAlone(t *testing.T) {
	t.Parallel()
	r := newDeafRig(t, deaf)
	r.exec("c1", "e1", forever(), StdioConfig{})
	r.start("c1", "e1")
	if err := r.kill("c1", "e1", syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	wantEqual(t, "exit of the exec", r.wait("c1", "e1"), 137)
	if _, err := r.delete("c1", "e1"); err != nil {
		t.Errorf("delete the exec: %v", err)
	}
	if slices.Contains(r.sandbox.called(), "stop") {
		t.Error("the machine was stopped for an exec")
	}
}

func TestASignalIsForAllProcessesOrForOneAsItWasAsked(t *testing.T) {
	t.Parallel()
	r := newRig(t, hooks{})
	r.run(spec{id: "c1", args: forever()})
	for _, all := range []bool{false, true} {
		req := &taskapi.KillRequest{ID: "c1", Signal: uint32(syscall.SIGCONT), All: all}
		if _, err := r.client.Kill(r.ctx, req); err != nil {
			t.Fatal(err)
		}
		if want := fmt.Sprintf("signal c1/ %d all=%v", syscall.SIGCONT, all); !slices.Contains(r.sandbox.called(), want) {
			t.Errorf("calls %q, want %q", r.sandbox.called(), want)
		}
	}
}
