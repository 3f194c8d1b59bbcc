package pool

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

func openOvercommitted(t *testing.T, dir string, overcommit float64) *Pool {
	t.Helper()
	p, err := Open(t.Context(), dir, Options{Node: testNode, Overcommit: overcommit})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { closePool(t, p) })
	return p
}

// createAll makes volumes until the pool has no space for another one, and returns them.
func createAll(t *testing.T, p *Pool, prefix string, sizeBytes int64, overcommit float64) (made []Volume) {
	t.Helper()
	for i := range 1000 {
		spec := ext4Spec(fmt.Sprint(prefix, i), sizeBytes)
		spec.Overcommit = overcommit
		v, err := p.Create(t.Context(), spec)
		if errors.Is(err, ErrNoSpace) {
			return made
		}
		if err != nil {
			t.Fatal(err)
		}
		made = append(made, v)
	}
	t.Fatal("a thousand volumes fit")
	return nil
}

func TestOvercommitmentPromisesAsMuchAsTheOperatorSays(t *testing.T) {
	for _, test := range []struct {
		overcommit, own float64
		least, most     int // volumes of 20 MiB in 400 MiB
	}{
		{0, 0, 19, 20}, {1, 0, 19, 20}, {1.5, 0, 29, 30}, {3, 0, 59, 60}, {3, 1, 19, 20}, {3, 2, 39, 40}, {3, 3, 59, 60},
	} {
		t.Run(fmt.Sprintf("%g, class %g", test.overcommit, test.own), func(t *testing.T) {
			p := openOvercommitted(t, mountSmall(t, "tmpfs", 400*mib), test.overcommit)
			capacity, err := p.Capacity(t.Context(), Spec{FSType: "ext4", Overcommit: test.own})
			if err != nil {
				t.Fatal(err)
			}
			made := len(createAll(t, p, "pvc-", 20*mib, test.own))
			if made < test.least || made > test.most {
				t.Errorf("%d volumes were made, want %d to %d", made, test.least, test.most)
			}
			if promised := capacity.AvailableBytes / (20 * mib); int64(made) < promised-1 || int64(made) > promised {
				t.Errorf("%d volumes were made; the capacity promised %d", made, promised)
			}
			// One volume alone must be able to be full, whatever is bet on the others.
			if capacity.MaximumVolumeBytes > 400*mib || capacity.MaximumVolumeBytes < 395*mib {
				t.Errorf("a volume of %d bytes is promised in a pool of 400 MiB", capacity.MaximumVolumeBytes)
			}
		})
	}
}

func TestNoVolumeIsLargerThanThePool(t *testing.T) {
	p := openOvercommitted(t, mountSmall(t, "tmpfs", 100*mib), 50)
	_, err := p.Create(t.Context(), ext4Spec("pvc", 101*mib))
	if !errors.Is(err, ErrNoSpace) || !strings.Contains(err.Error(), "the whole pool has room for") {
		t.Errorf("101 MiB of a pool of 100, 50 times over-committed: %v", err)
	}
	v := create(t, p, "pvc", 20*mib)
	if _, err := p.Grow(t.Context(), v.ID, SizeRange{RequiredBytes: 101 * mib}); !errors.Is(err, ErrNoSpace) {
		t.Errorf("growing to 101 MiB: %v", err)
	}
	if got, want := p.space.booked(), p.promiseOf(v).bookedBytes(); got != want {
		t.Errorf("%d bytes are booked after refusals, want %d", got, want)
	}
}

func TestAClassCannotExceedTheOperatorsOvercommitment(t *testing.T) {
	dir := mountSmall(t, "tmpfs", 100*mib)
	p := openOvercommitted(t, dir, 2)
	spec := ext4Spec("pvc", 20*mib)
	for _, overcommit := range []float64{2.5, 0.5, -1, math.NaN(), math.Inf(1)} {
		spec.Overcommit = overcommit
		if _, err := p.Create(t.Context(), spec); !errors.Is(err, ErrInvalidSpec) {
			t.Errorf("an over-commitment of %g where 2 is allowed: %v", overcommit, err)
		}
	}
	spec.Overcommit = 2
	if _, err := p.Create(t.Context(), spec); err != nil {
		t.Fatal(err)
	}
	// The volume stays, and a repeated call finds it, when the operator has become more careful. It counts in full.
	closePool(t, p)
	p = openOvercommitted(t, dir, 1)
	if _, err := p.Create(t.Context(), spec); err != nil {
		t.Errorf("repeated after the over-commitment was lowered: %v", err)
	}
	if got, want := p.space.booked(), costBytes(20*mib); got != want {
		t.Errorf("%d bytes are booked, want %d", got, want)
	}
	if _, err := Open(t.Context(), t.TempDir(), Options{Overcommit: 0.9}); !errors.Is(err, ErrInvalidSpec) {
		t.Errorf("a pool with an over-commitment of 0.9: %v", err)
	}
}

func TestLoweredOvercommitmentStopsNewPromisesOnly(t *testing.T) {
	dir := mountSmall(t, "tmpfs", 100*mib)
	p := openOvercommitted(t, dir, 3)
	made := createAll(t, p, "pvc-", 20*mib, 0)
	closePool(t, p)
	p = openOvercommitted(t, dir, 1)
	if all := p.List(t.Context()); len(all) != len(made) {
		t.Fatalf("%d volumes are left of %d", len(all), len(made))
	}
	if _, err := p.Create(t.Context(), ext4Spec("more", 20*mib)); !errors.Is(err, ErrNoSpace) {
		t.Errorf("one more: %v", err)
	}
	if s, err := p.Space(t.Context()); err != nil || !strings.Contains(s.Shortage, "lowered") {
		t.Errorf("%+v, %v", s, err)
	}
	for _, v := range made[4:] {
		if err := p.Delete(t.Context(), v.ID); err != nil {
			t.Fatal(err)
		}
	}
	if s, err := p.Space(t.Context()); err != nil || s.Shortage != "" {
		t.Errorf("%+v, %v", s, err)
	}
}

// What nobody has room for any more is not promised, even within the over-commitment.
func TestAFullDiskIsPromisedToNobody(t *testing.T) {
	dir := mountSmall(t, "tmpfs", 200*mib)
	p := openOvercommitted(t, dir, 10)
	v := create(t, p, "pvc", 190*mib)
	small := create(t, p, "small", 16*mib)
	fill(t, v)
	fill(t, Volume{ImagePath: small.ImagePath, SizeBytes: 2 * mib})

	capacity, err := p.Capacity(t.Context(), Spec{FSType: "ext4"})
	if err != nil || capacity.AvailableBytes != 0 || capacity.MaximumVolumeBytes != 0 {
		t.Errorf("a full disk has capacity %+v, %v", capacity, err)
	}
	_, err = p.Create(t.Context(), ext4Spec("more", 16*mib))
	if !errors.Is(err, ErrNoSpace) || !strings.Contains(err.Error(), "over-committed") {
		t.Errorf("create on a full disk: %v", err)
	}
	if _, err := p.Grow(t.Context(), small.ID, SizeRange{RequiredBytes: 20 * mib}); !errors.Is(err, ErrNoSpace) {
		t.Errorf("grow on a full disk: %v", err)
	}
	if s, err := p.Space(t.Context()); err != nil || !strings.Contains(s.Shortage, "nearly full") || s.TakenBytes < 192*mib {
		t.Errorf("%+v, %v", s, err)
	}
	if err := p.Delete(t.Context(), v.ID); err != nil {
		t.Fatal(err)
	}
	create(t, p, "more", 16*mib)
}

func TestAShortageIsWarnedOfOnceAndItsEndIsSaid(t *testing.T) {
	dir := mountSmall(t, "tmpfs", 100*mib)
	log := &lockedBuffer{}
	p, err := Open(t.Context(), dir, Options{
		Node: testNode, Log: slog.New(slog.NewTextHandler(log, nil)), shortageInterval: time.Millisecond,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { closePool(t, p) })
	create(t, p, "pvc", 80*mib)

	strangers := filepath.Join(dir, "strangers")
	for range 2 {
		log.reset()
		write(t, strangers, strings.Repeat("x", int(40*mib)))
		log.waitFor(t, "others write to it")
		if err := os.Remove(strangers); err != nil {
			t.Fatal(err)
		}
		log.waitFor(t, "room again")
		if n := strings.Count(log.String(), "level=WARN"); n != 1 {
			t.Errorf("warned %d times of one shortage:\n%s", n, log)
		}
	}
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func (l *lockedBuffer) reset() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.b.Reset()
}

func (l *lockedBuffer) waitFor(t *testing.T, words string) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); !strings.Contains(l.String(), words); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("the log never says %q:\n%s", words, l)
		}
	}
}

func TestAnEndlessFileSystemIsNotPromisedBeyondNumbers(t *testing.T) {
	s := space{overcommit: 100}
	if got := s.promisable(math.MaxInt64/2, 100); got <= 0 {
		t.Errorf("%d bytes can be promised of a file system without an end", got)
	}
}
