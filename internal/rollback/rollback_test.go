package rollback_test

import (
	"context"
	"errors"
	"slices"
	"testing"

	"github.com/katadirect/katadirect/internal/rollback"
)

// attempt takes three steps and ends with result; it returns the undo steps that ran, in order.
func attempt(ctx context.Context, result error, undoErr map[string]error, keep bool) (ran []string, err error) {
	func() {
		var undo rollback.Stack
		defer undo.OnError(ctx, &err)
		for _, name := range []string{"first", "second", "third"} {
			undo.Push("undo "+name, func(ctx context.Context) error {
				ran = append(ran, name)
				if ctx.Err() != nil {
					return ctx.Err()
				}
				return undoErr[name]
			})
		}
		if keep {
			undo.Keep()
		}
		err = result
	}()
	return ran, err
}

func TestStepsRunLastFirstAndOnlyOnError(t *testing.T) {
	failed := errors.New("failed")
	for _, tc := range []struct {
		name   string
		result error
		keep   bool
		want   []string
	}{
		{"success keeps everything", nil, false, nil},
		{"failure undoes everything backwards", failed, false, []string{"third", "second", "first"}},
		{"kept steps are not undone by a later failure", failed, true, nil},
	} {
		t.Run(tc.name, func(t *testing.T) {
			ran, err := attempt(t.Context(), tc.result, nil, tc.keep)
			if !slices.Equal(ran, tc.want) {
				t.Errorf("undone %v, want %v", ran, tc.want)
			}
			if !errors.Is(err, tc.result) {
				t.Errorf("error %v, want %v", err, tc.result)
			}
		})
	}
}

func TestAFailingUndoStopsNoOtherAndIsReported(t *testing.T) {
	failed, stuck := errors.New("failed"), errors.New("stuck")
	ran, err := attempt(t.Context(), failed, map[string]error{"second": stuck}, false)
	if want := []string{"third", "second", "first"}; !slices.Equal(ran, want) {
		t.Errorf("undone %v, want %v", ran, want)
	}
	if !errors.Is(err, failed) || !errors.Is(err, stuck) {
		t.Errorf("error %q holds not both the cause and the failed undo", err)
	}
}

func TestCancellationDoesNotReachTheUndo(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := attempt(ctx, ctx.Err(), nil, false)
	if err == nil || err.Error() != context.Canceled.Error() {
		t.Errorf("error %q, want only the cancellation", err)
	}
}

func TestAPanicIsUndoneAndGoesOn(t *testing.T) {
	var ran bool
	defer func() {
		if p := recover(); p != "boom" || !ran {
			t.Errorf("recovered %v, undone %v", p, ran)
		}
	}()
	var err error
	var undo rollback.Stack
	defer undo.OnError(t.Context(), &err)
	undo.Push("undo", func(context.Context) error { ran = true; return nil })
	panic("boom")
}
