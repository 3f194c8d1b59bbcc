package sandbox

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"

	"github.com/katadirect/katadirect/pkg/agent/guest"
)

// shareGrace is how long, at least, a part of the share has been in nobody's use before it is unmounted. Linux 6.1 must have no
// request to the host under way when a file system goes (see container's pins), and a daemon with several threads answers in
// any order.
const shareGrace = time.Second

const (
	slowHost   = 10 * time.Second // without an answer for so long, the log says so
	shareAtEnd = 2 * time.Second  // how long the sandbox's end waits for a run under way
)

// shares unmount what the kernel has mounted for containers that are gone. Nobody else would: such a mount stays when the
// host's has gone, with every name that the guest has looked at, and for each virtiofsd keeps a file open.
type shares struct {
	list     func() ([]*mountinfo.Info, error)        // the share and the mounts below it, in their order
	storages func() []string                          // the mount points of storages, which are others' to unmount
	hold     func(*mountinfo.Info) (heldMount, error) // opens a mount: unmounting it needs no walk to it then

	mu     sync.Mutex           // nobody who has it waits for the host
	inUse  map[*member][]string // sharedPaths of each container
	gone   map[string]time.Time // when the last container with this path went; while something may be mounted there
	tidied time.Time            // what had rested then was looked at
	next   *tidying             // nil while nothing is to be done
	ended  bool
}

// heldMount is an open mount, whose file system goes with its release when it has been unmounted.
type heldMount interface {
	unmount() error
	release()
}

// tidying is a run that is to come, or under way.
type tidying struct {
	timer *time.Timer
	done  chan struct{}
}

func newShares(storages func() []string) *shares {
	return &shares{
		list:     func() ([]*mountinfo.Info, error) { return mountinfo.GetMounts(mountinfo.PrefixFilter(guest.SharedDir)) },
		storages: storages, hold: holdMount,
		inUse: make(map[*member][]string), gone: make(map[string]time.Time),
	}
}

// take notes what a container is made from, before anything of it is looked at.
func (s *shares) take(m *member, paths []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.inUse[m] = paths
}

// drop has the parts that only this container was made from unmounted in a while.
func (s *shares) drop(m *member) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	for _, path := range s.inUse[m] {
		s.gone[path] = now
	}
	delete(s.inUse, m)
	s.arm()
}

// arm has tidy run in a while if there is a path that the last run did not find rested.
func (s *shares) arm() {
	if s.next != nil || s.ended {
		return
	}
	for _, at := range s.gone {
		if at.Add(shareGrace).After(s.tidied) {
			next := &tidying{done: make(chan struct{})}
			next.timer = time.AfterFunc(shareGrace, func() { s.run(next) })
			s.next = next
			return
		}
	}
}

func (s *shares) run(now *tidying) {
	defer close(now.done)
	slow := time.AfterFunc(slowHost, func() { slog.Warn("the host does not answer: removed containers' parts of the share are kept") })
	defer slow.Stop()
	if err := s.tidy(); err != nil {
		slog.Warn("a removed container's part of the share is kept", "error", err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.next = nil
	s.arm()
}

// end stops what is to come and waits a little for what is under way: who unmounts the whole share must not find a part held.
func (s *shares) end(ctx context.Context) error {
	s.mu.Lock()
	s.ended = true
	if s.next != nil && s.next.timer.Stop() {
		s.next = nil
	}
	next := s.next
	s.mu.Unlock()
	if next == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, shareAtEnd)
	defer cancel()
	select {
	case <-next.done:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("unmount removed containers' parts of the share: %w", ctx.Err())
	}
}

// tidy unmounts what has rested. The way to a mount leads through the host, which need not answer: it is walked before
// anybody has to wait for the lock.
func (s *shares) tidy() error {
	now := time.Now()
	s.mu.Lock()
	s.tidied = now
	_, points, err := s.rested(now)
	s.mu.Unlock()
	if err != nil {
		return err
	}
	held := make(map[int]heldMount)
	for _, point := range points {
		if h, err := s.hold(point); err == nil { // or it has gone with the host's
			held[point.ID] = h
			defer h.release()
		}
	}
	s.mu.Lock() // a container that begins to use one now would see another file system than those who had it before
	defer s.mu.Unlock()
	mounts, points, err := s.rested(now)
	if err != nil {
		return err
	}
	var errs []error
	for _, point := range points {
		h, ok := held[point.ID]
		if !ok || slices.ContainsFunc(mounts, func(m *mountinfo.Info) bool { return m != point && isBelow(m.Mountpoint, point.Mountpoint) }) {
			continue // what is below would go too, without a release
		}
		if err := h.unmount(); err == nil {
			mounts = slices.DeleteFunc(mounts, func(m *mountinfo.Info) bool { return m == point })
		} else if !errors.Is(err, unix.EINVAL) { // it is none any more: it has just gone with the host's
			errs = append(errs, fmt.Errorf("unmount %s: %w", point.Mountpoint, err))
		}
	}
	s.forget(mounts, now)
	return errors.Join(errs...)
}

// rested lists the mounts, and those of them that nobody has used for a while by now.
func (s *shares) rested(now time.Time) (mounts, points []*mountinfo.Info, err error) {
	if mounts, err = s.list(); err != nil {
		return nil, nil, err
	}
	inUse := slices.Concat(slices.Collect(maps.Values(s.inUse))...)
	var gone []string
	for path, at := range s.gone {
		if at.Add(shareGrace).After(now) {
			inUse = append(inUse, path)
		} else {
			gone = append(gone, path)
		}
	}
	return mounts, unneeded(mounts, gone, inUse, s.storages()), nil
}

// forget leaves the paths at which something is mounted yet, such as what another container uses: its end will come.
func (s *shares) forget(mounts []*mountinfo.Info, now time.Time) {
	maps.DeleteFunc(s.gone, func(path string, at time.Time) bool {
		return !at.Add(shareGrace).After(now) &&
			!slices.ContainsFunc(mounts, func(m *mountinfo.Info) bool { return isBelow(m.Mountpoint, path) })
	})
}

// mountFD is a mount by an open file, which is its root.
type mountFD int

// holdMount opens the mount and no other: containers may write where the way to it leads.
func holdMount(m *mountinfo.Info) (heldMount, error) {
	fd, err := unix.Open(m.Mountpoint, unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	var st unix.Statx_t
	if err := unix.Statx(fd, "", unix.AT_EMPTY_PATH, unix.STATX_MNT_ID, &st); err != nil || st.Mask&unix.STATX_MNT_ID == 0 || st.Mnt_id != uint64(m.ID) {
		_ = unix.Close(fd)
		return nil, fmt.Errorf("%s leads elsewhere", m.Mountpoint)
	}
	return mountFD(fd), nil
}

func (fd mountFD) unmount() error {
	return unix.Unmount(fmt.Sprintf("/proc/self/fd/%d", fd), unix.MNT_DETACH)
}

// release asks the host once more: from a daemon with one thread the answer comes after those to all earlier requests.
func (fd mountFD) release() {
	var fs unix.Statfs_t
	_ = unix.Fstatfs(int(fd), &fs)
	_ = unix.Close(int(fd))
}
