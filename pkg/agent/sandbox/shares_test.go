package sandbox

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/moby/sys/mountinfo"
)

// mountTable is the kernel's mounts on the share, in a test that need not be root.
type mountTable struct {
	mu     sync.Mutex
	points []string
	held   int
	stuck  chan struct{} // holds wait until it is closed
}

func (m *mountTable) list() (infos []*mountinfo.Info, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, point := range m.points {
		infos = append(infos, &mountinfo.Info{Mountpoint: point, FSType: shareType})
	}
	return infos, nil
}

func (m *mountTable) hold(point string) (heldMount, error) {
	if m.stuck != nil {
		<-m.stuck
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if !slices.Contains(m.points, point) {
		return nil, fmt.Errorf("%s is not mounted", point)
	}
	m.held++
	return tableMount{m, point}, nil
}

type tableMount struct {
	table *mountTable
	point string
}

func (t tableMount) unmount() error {
	t.table.mu.Lock()
	defer t.table.mu.Unlock()
	t.table.points = slices.DeleteFunc(t.table.points, func(p string) bool { return p == t.point })
	return nil
}

func (t tableMount) release() {
	t.table.mu.Lock()
	defer t.table.mu.Unlock()
	t.table.held--
}

// now is what is mounted, and how many mounts are held.
func (m *mountTable) now() (points []string, held int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Clone(m.points), m.held
}

func sharesOn(m *mountTable) *shares {
	s := newShares(func() []string { return nil })
	s.list, s.hold = m.list, m.hold
	return s
}

// TestAPartOfTheShareRestsBeforeItIsUnmounted: each step waits, does something, and says what must be mounted then.
func TestAPartOfTheShareRestsBeforeItIsUnmounted(t *testing.T) {
	type step struct {
		after time.Duration
		take  map[string][]string
		drop  []string
		want  []string
	}
	all := []string{"/s/a", "/s/f"}
	const nearly = shareGrace - time.Millisecond
	for name, steps := range map[string][]step{
		"its container has gone for a while": {{take: map[string][]string{"one": {"/s/a"}}, want: all}, {drop: []string{"one"}, want: all}, {after: nearly, want: all}, {after: time.Millisecond, want: []string{"/s/f"}}},
		"the last of two counts": {
			{take: map[string][]string{"one": {"/s/f"}, "two": {"/s/f"}}, want: all}, {drop: []string{"one"}, want: all},
			{after: nearly, drop: []string{"two"}, want: all}, {after: nearly, want: all}, {after: time.Millisecond, want: []string{"/s/a"}},
		},
		"another comes in the meantime": {
			{take: map[string][]string{"one": {"/s/f"}}, want: all}, {drop: []string{"one"}, want: all},
			{after: nearly, take: map[string][]string{"two": {"/s/f"}}, want: all}, {after: time.Hour, drop: []string{"two"}, want: all}, {after: shareGrace, want: []string{"/s/a"}},
		},
		"the last has a part of it": {
			{take: map[string][]string{"one": {"/s/f"}, "two": {"/s/f/part"}}, want: all}, {drop: []string{"one"}, want: all},
			{after: time.Hour, want: all}, {drop: []string{"two"}, want: all}, {after: shareGrace, want: []string{"/s/a"}},
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := &mountTable{points: slices.Clone(all)}
				s := sharesOn(m)
				for i, step := range steps {
					time.Sleep(step.after)
					synctest.Wait()
					for container, paths := range step.take {
						s.take(container, paths)
					}
					for _, container := range step.drop {
						s.drop(container)
					}
					if points, held := m.now(); !slices.Equal(points, step.want) || held != 0 {
						t.Errorf("step %d: %q are mounted, want %q; %d are held", i, points, step.want, held)
					}
				}
				if err := s.end(t.Context()); err != nil {
					t.Error(err)
				}
			})
		})
	}
}

func TestPathsOfRemovedContainersAreForgotten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := sharesOn(&mountTable{points: []string{"/s/f", "/s/f/below"}})
		s.take("stays", []string{"/s/f/below"})
		for i := range 100 {
			container := fmt.Sprint("c", i)
			s.take(container, []string{"/s/f", "/s/" + container})
			s.drop(container)
		}
		time.Sleep(2 * shareGrace)
		synctest.Wait()
		s.mu.Lock()
		defer s.mu.Unlock()
		if len(s.gone) != 1 || s.gone["/s/f"].IsZero() || len(s.inUse) != 1 {
			t.Errorf("%v are remembered, %v in use", s.gone, s.inUse)
		}
	})
}

// TestTheEndOfTheSandboxWaitsForAnUnmountUnderWay, as long as it may, and has none begin.
func TestTheEndOfTheSandboxWaitsForAnUnmountUnderWay(t *testing.T) {
	t.Run("none is", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			m := &mountTable{points: []string{"/s/f"}}
			s := sharesOn(m)
			s.take("one", []string{"/s/f"})
			s.drop("one")
			for range 2 {
				if err := s.end(t.Context()); err != nil {
					t.Error(err)
				}
			}
			s.take("two", []string{"/s/f"})
			s.drop("two")
			time.Sleep(2 * shareGrace)
			if points, _ := m.now(); len(points) != 1 {
				t.Error("it was unmounted after the end")
			}
		})
	})
	t.Run("the host does not answer", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			m := &mountTable{points: []string{"/s/f"}, stuck: make(chan struct{})}
			s := sharesOn(m)
			s.take("one", []string{"/s/f"})
			s.drop("one")
			time.Sleep(2 * shareGrace)
			s.take("two", []string{"/s/f/of-two"}) // nobody has to wait for the host
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			if err := s.end(ctx); !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("without an answer: %v", err)
			}
			close(m.stuck)
			if err := s.end(t.Context()); err != nil {
				t.Error(err)
			}
			if points, held := m.now(); len(points) != 1 || held != 0 {
				t.Errorf("what a container has come for in the meantime: %q are mounted, %d held", points, held)
			}
		})
	})
}

// TestContainersComeAndGoWhileSharesAreUnmounted is for the race detector.
func TestContainersComeAndGoWhileSharesAreUnmounted(t *testing.T) {
	m := &mountTable{points: []string{"/s/f", "/s/g"}}
	s := sharesOn(m)
	var all sync.WaitGroup
	for i := range 4 {
		all.Go(func() {
			for j := range 200 {
				container := fmt.Sprint(i, "-", j)
				s.take(container, []string{"/s/f", "/s/" + container})
				s.drop(container)
				if err := s.tidy(); err != nil {
					t.Error(err)
				}
			}
		})
	}
	all.Wait()
	err := s.end(t.Context())
	if _, held := m.now(); err != nil || held != 0 {
		t.Errorf("%v, %d mounts are held", err, held)
	}
}
