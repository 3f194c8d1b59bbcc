package main

import (
	"context"
	"errors"
	"testing"

	"github.com/containerd/ttrpc"

	"github.com/katadirect/katadirect/internal/calltimes"
)

func TestCallsAreTimedUnderKatasNames(t *testing.T) {
	var times calltimes.Times
	failed := errors.New("failed")
	intercept := timed(&times, func(context.Context, ttrpc.Unmarshaler, *ttrpc.UnaryServerInfo, ttrpc.Method) (any, error) {
		return "x", failed
	})
	for _, method := range []string{"Create", "ResizePty", "CloseIO", "Create"} {
		got, err := intercept(t.Context(), nil, &ttrpc.UnaryServerInfo{FullMethod: "/containerd.task.v2.Task/" + method}, nil)
		if got != "x" || !errors.Is(err, failed) {
			t.Errorf("%s: %v, %v", method, got, err)
		}
	}
	want := map[string]uint64{"close_io": 1, "create": 2, "resize_pty": 1}
	for _, of := range times.All() {
		if of.Count != want[of.Action] {
			t.Errorf("%s: %d", of.Action, of.Count)
		}
		delete(want, of.Action)
	}
	if len(want) > 0 {
		t.Errorf("not counted: %v", want)
	}
}
