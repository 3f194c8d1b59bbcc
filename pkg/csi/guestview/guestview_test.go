package guestview_test

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/katadirect/katadirect/pkg/csi/guestview"
	"github.com/katadirect/katadirect/pkg/directvolume"
)

func newViews(t *testing.T) *guestview.Views {
	v := guestview.New(slog.New(slog.DiscardHandler))
	t.Cleanup(v.Close)
	return v
}

func answer(total uint64) guestview.Ask {
	return func(context.Context) (directvolume.VolumeStats, error) {
		return directvolume.VolumeStats{Usage: []directvolume.VolumeUsage{{Total: total, Unit: directvolume.UnitBytes}}}, nil
	}
}

// never answers until its context ends, and counts how often it is asked.
func never(asked *atomic.Int64) guestview.Ask {
	return func(ctx context.Context) (directvolume.VolumeStats, error) {
		asked.Add(1)
		<-ctx.Done()
		return directvolume.VolumeStats{}, ctx.Err()
	}
}

func total(v guestview.View) uint64 {
	u, _ := v.Stats.Of(directvolume.UnitBytes)
	return u.Total
}

func TestASilentGuestCostsTheFullWaitOnceAndIsThenAnsweredForAtOnce(t *testing.T) {
	v := newViews(t)
	if got := v.Look(t.Context(), "vol", "sb", answer(7)); got.Err != nil || total(got) != 7 {
		t.Fatalf("a guest that answers: %+v", got)
	}
	var asked atomic.Int64
	begun := time.Now()
	got := v.Look(t.Context(), "vol", "sb", never(&asked))
	first := time.Since(begun)
	if !errors.Is(got.Err, guestview.ErrSilent) || total(got) != 7 || got.SilentSince.IsZero() || first < guestview.Patience {
		t.Errorf("after %v: %+v", first, got)
	}
	// A question is given up some time, and another one asked: looks that waited in full would see that.
	for range 12 {
		got = v.Look(t.Context(), "vol", "sb", never(&asked))
		if total(got) != 7 || got.Err == nil {
			t.Errorf("once known to be silent: %+v", got)
		}
	}
	if n := asked.Load(); n != 1 {
		t.Errorf("the guest was asked %d times, so somebody has waited for it", n)
	}
	if _, silent := v.Silent()["vol"]; !silent || len(v.Silent()) != 1 {
		t.Errorf("silent are %v", v.Silent())
	}
	if got := v.NoMachine("vol"); !got.SilentSince.IsZero() || total(got) != 7 || len(v.Silent()) != 0 {
		t.Errorf("without a machine: %+v", got)
	}
}

func TestAGuestThatComesBackIsSeenByTheNextLook(t *testing.T) {
	v := newViews(t)
	back := make(chan struct{})
	waits := func(ctx context.Context) (directvolume.VolumeStats, error) {
		select {
		case <-back:
			return answer(9)(ctx)
		case <-ctx.Done():
			return directvolume.VolumeStats{}, ctx.Err()
		}
	}
	if got := v.Look(t.Context(), "vol", "sb", waits); got.Known() || got.SilentSince.IsZero() {
		t.Fatalf("silent from the beginning: %+v", got)
	}
	close(back)
	got := v.Look(t.Context(), "vol", "sb", waits)
	for deadline := time.Now().Add(10 * time.Second); got.Err != nil && time.Now().Before(deadline); {
		got = v.Look(t.Context(), "vol", "sb", waits)
	}
	if got.Err != nil || total(got) != 9 || !got.SilentSince.IsZero() {
		t.Errorf("%+v", got)
	}
}

func TestAnotherMachineIsNotSilentBecauseTheLastOneWas(t *testing.T) {
	v := newViews(t)
	var asked atomic.Int64
	v.Look(t.Context(), "vol", "old", never(&asked))
	if got := v.Look(t.Context(), "vol", "new", answer(3)); got.Err != nil || total(got) != 3 || !got.SilentSince.IsZero() {
		t.Errorf("%+v", got)
	}
}

func TestAnErrorIsNoSilenceAndKeepsWhatWasKnown(t *testing.T) {
	v := newViews(t)
	v.Look(t.Context(), "vol", "sb", answer(5))
	refuses := errors.New("no container uses it")
	got := v.Look(t.Context(), "vol", "sb", func(context.Context) (directvolume.VolumeStats, error) {
		return directvolume.VolumeStats{}, refuses
	})
	if !errors.Is(got.Err, refuses) || total(got) != 5 || !got.SilentSince.IsZero() {
		t.Errorf("%+v", got)
	}
}

func TestOneSandboxIsAskedABoundedNumberOfQuestionsAtATime(t *testing.T) {
	v := newViews(t)
	var asked atomic.Int64
	var looks sync.WaitGroup
	for i := range 40 {
		looks.Go(func() { v.Look(t.Context(), string(rune('A'+i)), "sb", never(&asked)) })
	}
	looks.Wait()
	if n := asked.Load(); n == 0 || n > 8 {
		t.Errorf("%d questions at a time to one shim", n)
	}
	if got := v.Look(t.Context(), "vol", "other", answer(1)); got.Err != nil {
		t.Errorf("another sandbox has to suffer: %+v", got)
	}
}

func TestCloseEndsWhatIsUnderWay(t *testing.T) {
	v := guestview.New(slog.New(slog.DiscardHandler))
	var asked atomic.Int64
	v.Look(t.Context(), "vol", "sb", never(&asked))
	closed := make(chan struct{})
	go func() { v.Close(); close(closed) }()
	select {
	case <-closed:
	case <-time.After(10 * time.Second):
		t.Fatal("a question outlives Close")
	}
	if got := v.Look(t.Context(), "vol", "sb", answer(1)); got.Err == nil {
		t.Error("it asks after Close")
	}
}

func TestForgottenIsForgottenWhateverIsStillUnderWay(t *testing.T) {
	v := newViews(t)
	asked, release := make(chan struct{}), make(chan struct{})
	done := make(chan struct{})
	go func() {
		defer close(done)
		v.Look(t.Context(), "vol", "sb", func(ctx context.Context) (directvolume.VolumeStats, error) {
			close(asked)
			<-release
			return answer(1)(ctx)
		})
	}()
	<-asked
	v.Forget("vol")
	close(release)
	<-done
	if v.NoMachine("vol").Known() {
		t.Error("a deleted volume is known again")
	}
}
