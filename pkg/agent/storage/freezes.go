package storage

import (
	"errors"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/katadirect/katadirect/internal/filesystem"
)

// freezes are the volumes that stand still, by mount point. It has a lock of
// its own: what ends a freeze must never wait for somebody who waits for the
// frozen file system.
type freezes struct {
	mu    sync.Mutex
	count uint64
	now   map[string]*freeze
	last  map[string]*freeze // the one that ended last
}

// freeze is one volume's standing still.
type freeze struct {
	id    uint64
	still *filesystem.Frozen
	began time.Time
	until time.Time
	timer *time.Timer

	stood  time.Duration // writers waited for so long; known when it has ended
	ending bool
	why    string        // it ended, or is about to
	gone   chan struct{} // closed when it has ended
}

// add takes charge of a file system that has just been frozen.
func (s *freezes) add(path string, still *filesystem.Frozen, limit time.Duration) Freezing {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.now == nil {
		s.now, s.last = make(map[string]*freeze), make(map[string]*freeze)
	}
	s.count++
	f := &freeze{id: s.count, still: still, began: time.Now(), gone: make(chan struct{})}
	f.until = f.began.Add(limit)
	f.timer = time.AfterFunc(limit, func() {
		if frozen, _ := s.end(path, f.id, "its time limit was over"); frozen {
			slog.Warn("a frozen volume was thawed: its time limit was over", "mount_point", path, "limit", limit)
		}
	})
	s.now[path] = f
	return f.seen()
}

func (f *freeze) seen() Freezing {
	return Freezing{ID: f.id, Since: time.Since(f.began), Remaining: max(0, time.Until(f.until))}
}

// extend gives a freeze that there is limit from now, as far as MaxFreeze goes.
func (s *freezes) extend(path string, limit time.Duration) (Freezing, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f := s.now[path]
	if f == nil || f.ending {
		return Freezing{}, false
	}
	until := time.Now().Add(limit)
	if latest := f.began.Add(MaxFreeze); until.After(latest) {
		until = latest
	}
	// A timer that has run out is on its way to end the freeze.
	if until.After(f.until) && f.timer.Stop() {
		f.until = until
		f.timer.Reset(time.Until(until))
	}
	return f.seen(), true
}

// of returns the freeze of a mount point, nil if there is none.
func (s *freezes) of(path string) *Freezing {
	s.mu.Lock()
	defer s.mu.Unlock()
	f := s.now[path]
	if f == nil {
		return nil
	}
	seen := f.seen()
	return &seen
}

func (s *freezes) paths() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var all []string
	for path := range s.now {
		all = append(all, path)
	}
	slices.Sort(all)
	return all
}

// end lets a file system go on: at Thaw, when its time is over, when the host
// hangs up, and before it is unmounted or a container that uses it is killed.
// An id of 0 means whichever freeze there is. When it returns nothing is
// frozen by that id. It says whether this call has ended it; if not, when
// nothing was frozen or somebody was quicker, why.
func (s *freezes) end(path string, id uint64, why string) (wasFrozen bool, ended string) {
	s.mu.Lock()
	f := s.now[path]
	if f == nil || id != 0 && f.id != id {
		defer s.mu.Unlock()
		if last := s.last[path]; last != nil && (id == 0 || last.id == id) {
			return false, last.why
		}
		return false, "it was not frozen"
	}
	if f.ending {
		s.mu.Unlock()
		<-f.gone
		return false, f.why
	}
	f.ending, f.why = true, why
	f.timer.Stop()
	s.mu.Unlock()

	err := f.still.Thaw()
	stood := time.Since(f.still.Since)

	s.mu.Lock()
	defer s.mu.Unlock()
	f.stood = stood
	if err != nil {
		slog.Error("thaw", "error", err)
		f.why = err.Error()
		if errors.Is(err, filesystem.ErrThawed) {
			f.why = filesystem.ErrThawed.Error()
		}
	}
	delete(s.now, path)
	s.last[path] = f
	close(f.gone)
	return err == nil, f.why
}

// stood is how long writers have waited for the freeze of a mount point that
// ended last, if it is the one with that id.
func (s *freezes) stood(path string, id uint64) time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	if last := s.last[path]; last != nil && last.id == id {
		return last.stood
	}
	return 0
}

// forget drops what is known of a mount point that is no more.
func (s *freezes) forget(path string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.last, path)
}
