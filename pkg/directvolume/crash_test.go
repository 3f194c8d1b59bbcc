package directvolume

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"
)

// kills is how often each crash test kills. The instant is random; over the runs of a project's life every instant
// comes up.
const kills = 30

func pause() { time.Sleep(time.Duration(rand.Int64N(int64(8 * time.Millisecond)))) }

func TestRecordIsWholeAndNeverAbsentHoweverItsWriterIsKilled(t *testing.T) {
	h := newHost(t)
	devices := []string{"/dev/sdf", "/dev/sdg"}
	h.added(t, "/v", devices[0])
	for range kills {
		writer := startChild(t, "add", h.dir, "/v", devices[0], devices[1])
		if line := writer.line(); line != "ready" {
			t.Fatal(line)
		}
		pause()
		writer.kill()
		if got, err := h.store().Get(t.Context(), "/v"); err != nil || !slices.Contains(devices, got.Device) {
			t.Fatalf("%+v, %v", got, err)
		}
	}
	// The next writer succeeds, and takes away what the killed ones left.
	h.added(t, "/v", devices[0])
	if names := h.rootNames(t); len(names) != 1 {
		t.Fatalf("left over: %q", names)
	}
}

func TestRecordIsWholeOrAbsentHoweverItsRemoverIsKilled(t *testing.T) {
	for _, mode := range []string{"add-remove", "add-remove-background"} {
		t.Run(mode, func(t *testing.T) {
			h := newHost(t)
			devices := []string{"/dev/sdf", "/dev/sdg"}
			for range kills {
				writer := startChild(t, mode, h.dir, "/v", devices[0], devices[1])
				if line := writer.line(); line != "ready" {
					t.Fatal(line)
				}
				pause()
				writer.kill()
				if got, err := h.store().Get(t.Context(), "/v"); !errors.Is(err, ErrNotFound) && (err != nil || !slices.Contains(devices, got.Device)) {
					t.Fatalf("%+v, %v", got, err)
				}
			}
			must(t, h.store().Remove(t.Context(), "/v"))
			if names := h.rootNames(t); len(names) != 0 {
				t.Fatalf("left over: %q", names)
			}
		})
	}
}

// A reader in this process, while others write, remove and are killed.
func TestReadersNeverSeeABadRecordWhileWritersAreKilled(t *testing.T) {
	h := newHost(t)
	stop := make(chan struct{})
	done := make(chan error, 1)
	go func() {
		store := h.store()
		for {
			select {
			case <-stop:
				done <- nil
				return
			default:
			}
			if _, err := store.Get(t.Context(), "/v"); err != nil && !errors.Is(err, ErrNotFound) {
				done <- err
				return
			}
		}
	}()
	for range kills / 3 {
		first := startChild(t, "add-remove-background", h.dir, "/v", "/dev/sdf")
		second := startChild(t, "add", h.dir, "/v", "/dev/sdg")
		first.line()
		second.line()
		pause()
		first.kill()
		second.kill()
	}
	close(stop)
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}

func TestOfManyProcessesOneGetsTheVolumeAndItsDeathFreesIt(t *testing.T) {
	h := newHost(t)
	h.added(t, "/v", h.device(t, "disk"))
	children := map[string]child{}
	for i := range 8 {
		id := fmt.Sprintf("s%d", i)
		children[id] = startChild(t, "claim", h.dir, "/v", id)
	}
	winner := ""
	for id, child := range children {
		switch line := child.line(); {
		case line == "claimed" && winner == "":
			winner = id
		case line != "refused":
			t.Errorf("%s: %s, after %s", id, line, winner)
		}
	}
	if id, err := h.store().SandboxFor(t.Context(), "/v"); err != nil || id != winner {
		t.Fatalf("%q, %v; %q has it", id, err, winner)
	}
	children[winner].kill()
	if id, err := h.store().SandboxFor(t.Context(), "/v"); !errors.Is(err, ErrNoSandbox) {
		t.Fatalf("%q, %v", id, err)
	}
	next := startChild(t, "claim", h.dir, "/v", "next")
	if line := next.line(); line != "claimed" {
		t.Fatal(line)
	}
	if got := h.claims(t, "/v"); !slices.Equal(got, []string{"next"}) {
		t.Fatalf("claims: %q", got)
	}
}
