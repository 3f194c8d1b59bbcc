package task

import (
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"testing"
)

// CRI-O looks for the mark once, when it hears of the exit. The guest tells of the kill and of the exit at the same
// time, by two answers of which either may come first.
func TestTheMarkOfAnOOMKillIsThereWhenTheExitIsKnown(t *testing.T) {
	t.Parallel()
	r := newRig(t, hooks{})
	r.service.oomGrace = patience
	req := r.request(spec{id: "c1", args: sh("kill -9 $$")})
	if _, err := r.client.Create(r.ctx, req); err != nil {
		t.Fatal(err)
	}
	r.start("c1", "")
	r.sandbox.oom <- "c1"
	wantEqual(t, "exit status", r.wait("c1", ""), 137)
	if _, err := os.Stat(filepath.Join(req.GetBundle(), "oom")); err != nil {
		t.Error(err)
	}
	r.await("exit c1")
	events := r.sequence()
	if slices.Index(events, "oom c1") > slices.Index(events, "exit c1") {
		t.Errorf("the events came as %q", events)
	}
}

func TestTheExitOfAContainerThatWasToDieIsNotHeldBack(t *testing.T) {
	t.Parallel()
	r := newRig(t, hooks{})
	r.run(spec{id: "c1", args: forever()})
	if err := r.kill("c1", "", syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	wantEqual(t, "exit status", r.wait("c1", ""), 137)
	c, err := r.service.container("c1")
	if err != nil {
		t.Fatal(err)
	}
	if !c.init.killed.Load() {
		t.Error("nobody remembers that it was killed")
	}
}
