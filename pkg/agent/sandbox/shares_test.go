package sandbox

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"
)

// mountTable is the kernel's mounts on the share, in a test that need not be root. Of what goes to the host each call takes
// slow, by which the bubble's time goes on.
type mountTable struct {
	slow time.Duration

	mu     sync.Mutex
	mounts []*mountinfo.Info
	serial int
	held   int
	check  func(point string) // called for what is unmounted
	stays  string             // the point whose unmount fails
}

func tableOf(points ...string) *mountTable {
	m := &mountTable{}
	for _, point := range points {
		m.mount(point)
	}
	return m
}

// mount does what the kernel does by itself when somebody looks at the point.
func (t *mountTable) mount(point string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !slices.ContainsFunc(t.mounts, func(m *mountinfo.Info) bool { return m.Mountpoint == point }) {
		t.serial++
		t.mounts = append(t.mounts, &mountinfo.Info{ID: t.serial, Mountpoint: point, FSType: shareType})
	}
}

func (t *mountTable) list() ([]*mountinfo.Info, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return slices.Clone(t.mounts), nil
}

func (t *mountTable) hold(m *mountinfo.Info) (heldMount, error) {
	time.Sleep(t.slow)
	t.mu.Lock()
	defer t.mu.Unlock()
	if !slices.Contains(t.mounts, m) {
		return nil, fmt.Errorf("%s is not mounted", m.Mountpoint)
	}
	t.held++
	return tableMount{t, m}, nil
}

type tableMount struct {
	table *mountTable
	info  *mountinfo.Info
}

func (m tableMount) unmount() error {
	m.table.mu.Lock()
	defer m.table.mu.Unlock()
	if m.table.stays == m.info.Mountpoint {
		return unix.EPERM
	}
	if m.table.check != nil {
		m.table.check(m.info.Mountpoint)
	}
	m.table.mounts = slices.DeleteFunc(m.table.mounts, func(one *mountinfo.Info) bool { return one == m.info })
	return nil
}

func (m tableMount) release() {
	time.Sleep(m.table.slow)
	m.table.mu.Lock()
	defer m.table.mu.Unlock()
	m.table.held--
}

// now is what is mounted, and how many mounts are held.
func (t *mountTable) now() (points []string, held int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, m := range t.mounts {
		points = append(points, m.Mountpoint)
	}
	return points, t.held
}

func (t *mountTable) want(test *testing.T, points ...string) {
	test.Helper()
	if now, _ := t.now(); !slices.Equal(now, points) {
		test.Errorf("%q are mounted, want %q", now, points)
	}
}

func sharesOn(t *mountTable) *shares {
	s := newShares(func() []string { return nil })
	s.list, s.hold = t.list, t.hold
	return s
}

// TestAPartOfTheShareRestsBeforeItIsUnmounted: each step waits, does something, and says what must be mounted then.
func TestAPartOfTheShareRestsBeforeItIsUnmounted(t *testing.T) {
	one, two := &member{}, &member{}
	type step struct {
		after time.Duration
		take  map[*member][]string
		drop  *member
		want  []string
	}
	all := []string{"/s/a", "/s/f"}
	const nearly = shareGrace - time.Millisecond
	for name, steps := range map[string][]step{
		"its container has gone for a while": {{take: map[*member][]string{one: {"/s/a"}}, want: all}, {drop: one, want: all}, {after: nearly, want: all}, {after: time.Millisecond, want: []string{"/s/f"}}},
		"the last of two counts": {
			{take: map[*member][]string{one: {"/s/f"}, two: {"/s/f"}}, want: all}, {drop: one, want: all},
			{after: nearly, drop: two, want: all}, {after: nearly, want: all}, {after: shareGrace, want: []string{"/s/a"}},
		},
		"another comes in the meantime": {
			{take: map[*member][]string{one: {"/s/f"}}, want: all}, {drop: one, want: all},
			{after: nearly, take: map[*member][]string{two: {"/s/f"}}, want: all}, {after: time.Hour, drop: two, want: all}, {after: shareGrace, want: []string{"/s/a"}},
		},
		"the last has a part of it": {
			{take: map[*member][]string{one: {"/s/f"}, two: {"/s/f/part"}}, want: all}, {drop: one, want: all},
			{after: time.Hour, want: all}, {drop: two, want: all}, {after: shareGrace, want: []string{"/s/a"}},
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := tableOf(all...)
				s := sharesOn(m)
				for _, step := range steps {
					time.Sleep(step.after)
					synctest.Wait()
					for container, paths := range step.take {
						s.take(container, paths)
					}
					if step.drop != nil {
						s.drop(step.drop)
					}
					m.want(t, step.want...)
				}
				if err := s.end(t.Context()); err != nil {
					t.Error(err)
				}
			})
		})
	}
}

// TestWhatComesToRestDuringARunIsUnmountedByTheNext, however long the host takes for the first.
func TestWhatComesToRestDuringARunIsUnmountedByTheNext(t *testing.T) {
	for name, slow := range map[string]time.Duration{"a quick host": 0, "a busy host": 10 * time.Millisecond, "a slow host": 3 * shareGrace} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := tableOf("/s/a", "/s/b", "/s/c")
				m.slow = slow
				s := sharesOn(m)
				for i, path := range []string{"/s/a", "/s/b", "/s/c"} {
					container := &member{}
					s.take(container, []string{path})
					time.Sleep([]time.Duration{0, 5 * time.Millisecond, shareGrace}[i])
					s.drop(container)
				}
				time.Sleep(time.Minute)
				m.want(t)
				if err := s.end(t.Context()); err != nil {
					t.Error(err)
				}
			})
		})
	}
}

func TestAMountIsUnmountedAfterThoseBelowIt(t *testing.T) {
	for name, stays := range map[string]string{"all go": "", "the one below stays": "/s/f/below"} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := tableOf("/s/f", "/s/f/below")
				m.stays = stays
				var order []string
				m.check = func(point string) { order = append(order, point) }
				s, container := sharesOn(m), &member{}
				s.take(container, []string{"/s/f"})
				s.drop(container)
				time.Sleep(2 * shareGrace)
				if stays == "" {
					m.want(t)
					if !slices.Equal(order, []string{"/s/f/below", "/s/f"}) {
						t.Errorf("in the order %q", order)
					}
					return
				}
				m.want(t, "/s/f", "/s/f/below")
				m.mu.Lock()
				m.stays = ""
				m.mu.Unlock()
				s.drop(container) // of no container: it is not remembered
				time.Sleep(2 * shareGrace)
				m.want(t, "/s/f", "/s/f/below")
				s.take(container, []string{"/s/other"})
				s.drop(container)
				time.Sleep(2 * shareGrace)
				m.want(t)
			})
		})
	}
}

func TestPathsOfRemovedContainersAreForgotten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := sharesOn(tableOf("/s/f", "/s/f/below"))
		s.take(&member{}, []string{"/s/f/below"})
		for i := range 100 {
			container := &member{}
			s.take(container, []string{"/s/f", fmt.Sprint("/s/c", i)})
			s.drop(container)
		}
		time.Sleep(2 * shareGrace)
		synctest.Wait()
		s.mu.Lock()
		defer s.mu.Unlock()
		if len(s.gone) != 1 || s.gone["/s/f"].IsZero() || len(s.inUse) != 1 || s.next != nil {
			t.Errorf("%v are remembered, %v in use, %v to come", s.gone, s.inUse, s.next)
		}
	})
}

// TestTheEndOfTheSandboxWaitsForAnUnmountUnderWay, as long as it may, and has none begin.
func TestTheEndOfTheSandboxWaitsForAnUnmountUnderWay(t *testing.T) {
	for name, c := range map[string]struct {
		slow, after time.Duration // the host, and when the end comes
		mounted     int
		err         error
	}{
		"none is":                      {after: shareGrace / 2, mounted: 1},
		"the host takes a while":       {slow: shareAtEnd / 3, after: shareGrace + time.Millisecond},
		"the host answers much later":  {slow: time.Hour, after: 2 * shareGrace, mounted: 1, err: context.DeadlineExceeded},
		"all has been unmounted since": {after: time.Hour},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := tableOf("/s/f")
				m.slow = c.slow
				s, container := sharesOn(m), &member{}
				s.take(container, []string{"/s/f"})
				s.drop(container)
				time.Sleep(c.after)
				for range 2 {
					if err := s.end(t.Context()); !errors.Is(err, c.err) {
						t.Errorf("%v, want %v", err, c.err)
					}
				}
				if points, held := m.now(); len(points) != c.mounted || held != 0 {
					t.Errorf("%q are mounted, %d held", points, held)
				}
				s.take(container, []string{"/s/f"}) // nobody waits for the host
				time.Sleep(3 * time.Hour)
				s.drop(container)
				time.Sleep(3 * time.Hour)
				if points, held := m.now(); len(points) != c.mounted || held != 0 {
					t.Errorf("after the end %q are mounted, %d held", points, held)
				}
			})
		})
	}
}

// TestNothingInUseIsUnmountedWhileContainersComeAndGo, and everything is when they have gone.
func TestNothingInUseIsUnmountedWhileContainersComeAndGo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := tableOf()
		m.slow = 300 * time.Millisecond
		s := sharesOn(m)
		unmounted := 0
		m.check = func(point string) { // with s.mu held
			unmounted++
			for _, paths := range s.inUse {
				if slices.ContainsFunc(paths, func(path string) bool { return isBelow(path, point) || isBelow(point, path) }) {
					t.Errorf("%s is unmounted, and %q are in use", point, paths)
				}
			}
		}
		var all sync.WaitGroup
		for i := range 4 {
			random := rand.New(rand.NewPCG(uint64(i), 0))
			all.Go(func() {
				for range 300 {
					paths := []string{fmt.Sprint("/s/f", random.IntN(4)), fmt.Sprint("/s/f", random.IntN(4), "/part")}
					container := &member{}
					s.take(container, paths)
					for _, path := range paths {
						m.mount(path)
					}
					time.Sleep(time.Duration(random.IntN(int(shareGrace))))
					s.drop(container)
					time.Sleep(time.Duration(random.IntN(int(2 * shareGrace))))
				}
			})
		}
		all.Wait()
		time.Sleep(time.Minute)
		m.want(t)
		if err := s.end(t.Context()); err != nil || unmounted < 100 {
			t.Errorf("%d were unmounted, %v", unmounted, err)
		}
	})
}
