package storage

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/katadirect/katadirect/internal/filesystem"
	"github.com/katadirect/katadirect/pkg/agentproto"
)

// frozenRig has a volume that is mounted.
func frozenRig(t *testing.T) (*rig, *agentproto.Storage) {
	r := newRig(t)
	s := r.disk("katadirect.io/format=if-blank")
	r.add(s)
	return r, s
}

// write starts to write into the volume, and returns what is closed when that is done.
func write(t *testing.T, s *agentproto.Storage) <-chan struct{} {
	t.Helper()
	done := make(chan struct{})
	var writing sync.WaitGroup
	writing.Go(func() {
		defer close(done)
		if err := os.WriteFile(filepath.Join(s.MountPoint, "file"), []byte("x"), 0o600); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(writing.Wait)
	return done
}

func waits(t *testing.T, done <-chan struct{}) {
	t.Helper()
	select {
	case <-done:
		t.Fatal("a write went through to a frozen volume")
	case <-time.After(100 * time.Millisecond):
	}
}

func goesOn(t *testing.T, done <-chan struct{}) {
	t.Helper()
	select {
	case <-done:
	case <-time.After(20 * time.Second):
		t.Fatal("a write still waits")
	}
}

func TestAWriterWaitsForTheThaw(t *testing.T) {
	r, s := frozenRig(t)
	f, err := r.Freeze(t.Context(), s.MountPoint, MaxFreeze)
	if err != nil || f.ID == 0 || f.Remaining <= 0 {
		t.Fatalf("%+v, %v", f, err)
	}
	done := write(t, s)
	waits(t, done)
	list, err := r.Volumes(t.Context())
	if err != nil || len(list) != 1 || list[0].Freezing == nil || list[0].Freezing.ID != f.ID || list[0].DeviceBytes != 64<<20 {
		t.Errorf("listed %+v, %v", list, err)
	}
	was, ended, err := r.Thaw(s.MountPoint, f.ID)
	if err != nil || !was {
		t.Errorf("thaw: %v, %q, %v", was, ended, err)
	}
	goesOn(t, done)
	if was, ended, err := r.Thaw(s.MountPoint, f.ID); was || !strings.Contains(ended, "was thawed") || err != nil {
		t.Errorf("the second thaw: %v, %q, %v", was, ended, err)
	}
}

func TestAFreezeEndsByItself(t *testing.T) {
	for name, tc := range map[string]struct {
		limit time.Duration
		end   func(r *rig, s *agentproto.Storage)
		why   string
	}{
		"when its time is over":           {3 * time.Second, func(*rig, *agentproto.Storage) {}, "time limit"},
		"when the host hangs up":          {MaxFreeze, func(r *rig, _ *agentproto.Storage) { r.ThawAll("the host has hung up") }, "hung up"},
		"before a container is killed":    {MaxFreeze, func(r *rig, s *agentproto.Storage) { r.ThawEach([]string{s.MountPoint}, "a kill") }, "kill"},
		"when somebody else thaws it too": {MaxFreeze, func(r *rig, s *agentproto.Storage) { thawBehind(r.t, s) }, "something else"},
	} {
		t.Run(name, func(t *testing.T) {
			r, s := frozenRig(t)
			f, err := r.Freeze(t.Context(), s.MountPoint, tc.limit)
			if err != nil {
				t.Fatal(err)
			}
			done := write(t, s)
			tc.end(r, s)
			goesOn(t, done)
			if was, why, err := r.Thaw(s.MountPoint, f.ID); was || !strings.Contains(why, tc.why) || err != nil {
				t.Errorf("thaw says %v, %q, %v; want %q", was, why, err, tc.why)
			}
		})
	}
}

// thawBehind thaws a volume as a container with privilege could.
func thawBehind(t *testing.T, s *agentproto.Storage) {
	dir, err := os.Open(s.MountPoint)
	if err != nil {
		t.Fatal(err)
	}
	defer dir.Close()
	const fiThaw = 0xc0045878
	if err := ioctl(dir, fiThaw); err != nil {
		t.Fatal(err)
	}
}

func TestAFrozenVolumeIsReleasedAtOnce(t *testing.T) {
	r, s := frozenRig(t)
	if _, err := r.Freeze(t.Context(), s.MountPoint, MaxFreeze); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	r.release(s)
	if took := time.Since(began); took > MaxFreeze/2 {
		t.Errorf("released after %v", took)
	}
	if isMounted(s.MountPoint) {
		t.Error("still mounted")
	}
	r.add(s) // nothing of the freeze is left on the file system
	goesOn(t, write(t, s))
}

func TestFreezingAgainExtendsTheFirstFreezeUpToTheLongest(t *testing.T) {
	r, s := frozenRig(t)
	const limit = 5 * time.Second // what was not written yet has to be written within it, and the next freeze to come
	first, err := r.Freeze(t.Context(), s.MountPoint, limit)
	if err != nil {
		t.Fatal(err)
	}
	var both sync.WaitGroup
	for range 2 {
		both.Go(func() {
			again, err := r.Freeze(t.Context(), s.MountPoint, MaxFreeze)
			if err != nil || again.ID != first.ID || again.Remaining > MaxFreeze || again.Remaining < MaxFreeze/2 {
				t.Errorf("%+v, %v; want %d extended", again, err, first.ID)
			}
		})
	}
	both.Wait()
	done := write(t, s)
	time.Sleep(limit + 200*time.Millisecond)
	waits(t, done) // the first limit is over
	if was, _, err := r.Thaw(s.MountPoint, 0); !was || err != nil {
		t.Errorf("%v, %v", was, err)
	}
	goesOn(t, done)
	second, err := r.Freeze(t.Context(), s.MountPoint, MaxFreeze)
	if err != nil || second.ID == first.ID {
		t.Errorf("%+v, %v; want another freeze than %d", second, err, first.ID)
	}
	if was, _, err := r.Thaw(s.MountPoint, first.ID); was || err != nil {
		t.Errorf("the id of the first has ended the second: %v, %v", was, err)
	}
}

func TestAFreezeNobodyWaitsForIsTakenBack(t *testing.T) {
	r, s := frozenRig(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	// Whichever of the two is quicker: the volume must not stay frozen.
	if f, err := r.Freeze(ctx, s.MountPoint, MaxFreeze); err == nil {
		_, _, _ = r.Thaw(s.MountPoint, f.ID)
	} else if !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	goesOn(t, write(t, s))
}

func TestWhatCannotBeFrozenIsRefused(t *testing.T) {
	r, s := frozenRig(t)
	for name, tc := range map[string]struct {
		path  string
		limit time.Duration
		want  error
	}{
		"nothing is mounted":   {filepath.Join(r.dir, "nothing"), time.Second, ErrNotMounted},
		"no time":              {s.MountPoint, 0, ErrRequest},
		"too long":             {s.MountPoint, MaxFreeze + 1, ErrRequest},
		"less than no time":    {s.MountPoint, -1, ErrRequest},
		"a path that is none":  {"", time.Second, ErrNotMounted},
		"a path out of bounds": {s.MountPoint + "/../../..", time.Second, ErrNotMounted},
	} {
		if _, err := r.Freeze(t.Context(), tc.path, tc.limit); !errors.Is(err, tc.want) {
			t.Errorf("%s: %v, want %v", name, err, tc.want)
		}
	}
	r.release(s)
	s.Options = []string{"ro"}
	r.add(s)
	if _, err := r.Freeze(t.Context(), s.MountPoint, time.Second); !errors.Is(err, ErrReadOnly) {
		t.Errorf("read-only: %v", err)
	}
	if _, _, err := r.Thaw("/nowhere", 0); !errors.Is(err, ErrNotMounted) {
		t.Errorf("thaw of nothing: %v", err)
	}
}

func TestAFrozenVolumeDoesNotGrowAndIsStillMeasured(t *testing.T) {
	r, s := frozenRig(t)
	if _, err := r.Freeze(t.Context(), s.MountPoint, MaxFreeze); err != nil {
		t.Fatal(err)
	}
	if err := r.Resize(t.Context(), s.MountPoint, 0); !errors.Is(err, filesystem.ErrFrozen) {
		t.Errorf("resize: %v", err)
	}
	if h, err := r.Health(t.Context(), s.MountPoint); err != nil || len(h.Problems) > 0 || h.Usage.Total == 0 {
		t.Errorf("health: %+v, %v", h, err)
	}
}

func ioctl(f *os.File, request uintptr) error {
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, f.Fd(), request, 0); errno != 0 {
		return errno
	}
	return nil
}
