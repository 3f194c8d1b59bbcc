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

// shareGrace is how long a part of the share has been in nobody's use before it is unmounted. Linux 6.1 must have no request
// to the host under way when a file system goes (see container's pins), and a daemon with several threads answers in any order.
const shareGrace = time.Second

// shares unmount what the kernel has mounted for containers that are gone. Nobody else would: such a mount stays when the
// host's has gone, with every name that the guest has looked at, and for each virtiofsd keeps a file open.
type shares struct {
	list     func() ([]*mountinfo.Info, error)     // the mounts on the share and below, in their order
	storages func() []string                       // the mount points of storages, which are others' to unmount
	hold     func(point string) (heldMount, error) // keeps one from going, and the walk to it from being made again

	mu    sync.Mutex           // nobody who has it waits for the host
	inUse map[string][]string  // of each container, by its id: sharedPaths
	gone  map[string]time.Time // when the last container with this path went; while something may be mounted there
	next  *tidying             // nil while nothing is to be done
	ended bool
}

// heldMount is a mount that may be unmounted, and goes with its release.
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
		inUse: make(map[string][]string), gone: make(map[string]time.Time),
	}
}

// take notes what a container is made from, before anything of it is looked at.
func (s *shares) take(container string, paths []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.inUse[container] = paths
}

// drop has the parts that only this container was made from unmounted in a while.
func (s *shares) drop(container string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	for _, path := range s.inUse[container] {
		s.gone[path] = now
	}
	delete(s.inUse, container)
	s.arm()
}

// arm has tidy run when the next path has rested, if one has not yet.
func (s *shares) arm() {
	if s.next != nil || s.ended {
		return
	}
	soonest := shareGrace
	resting := false
	for _, at := range s.gone {
		if left := shareGrace - time.Since(at); left > 0 {
			soonest, resting = min(soonest, left), true
		}
	}
	if resting {
		next := &tidying{done: make(chan struct{})}
		next.timer = time.AfterFunc(soonest, func() { s.run(next) })
		s.next = next
	}
}

func (s *shares) run(now *tidying) {
	defer close(now.done)
	if err := s.tidy(); err != nil {
		slog.Warn("a removed container's part of the share is kept", "error", err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.next = nil
	s.arm()
}

// end stops what is to come and waits for what is under way: who unmounts the whole share must not find a part held.
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
	s.mu.Lock()
	_, points, err := s.rested()
	s.mu.Unlock()
	if err != nil {
		return err
	}
	held := make(map[string]heldMount)
	for _, point := range points {
		if h, err := s.hold(point); err == nil { // or it has gone with the host's
			held[point] = h
			defer h.release()
		}
	}
	s.mu.Lock() // a container that begins to use one now would see another file system than those who had it before
	defer s.mu.Unlock()
	mounts, points, err := s.rested()
	if err != nil {
		return err
	}
	var errs []error
	for _, point := range points {
		if h, ok := held[point]; ok {
			errs = append(errs, h.unmount())
			mounts = slices.DeleteFunc(mounts, func(m *mountinfo.Info) bool { return m.Mountpoint == point })
		}
	}
	s.forget(mounts)
	return errors.Join(errs...)
}

// rested lists the mounts, and those of them that nobody has used for a while.
func (s *shares) rested() (mounts []*mountinfo.Info, points []string, err error) {
	if mounts, err = s.list(); err != nil {
		return nil, nil, err
	}
	inUse := slices.Concat(slices.Collect(maps.Values(s.inUse))...)
	var gone []string
	for path, at := range s.gone {
		if time.Since(at) < shareGrace {
			inUse = append(inUse, path)
		} else {
			gone = append(gone, path)
		}
	}
	return mounts, unneeded(mounts, gone, inUse, s.storages()), nil
}

// forget leaves the paths at which something is mounted yet, such as what another container uses: its end will come.
func (s *shares) forget(mounts []*mountinfo.Info) {
	maps.DeleteFunc(s.gone, func(path string, at time.Time) bool {
		return time.Since(at) >= shareGrace &&
			!slices.ContainsFunc(mounts, func(m *mountinfo.Info) bool { return isBelow(m.Mountpoint, path) })
	})
}

// mountFD is a mount by an open file, which is its root.
type mountFD int

func holdMount(point string) (heldMount, error) {
	fd, err := unix.Open(point, unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	return mountFD(fd), err
}

func (fd mountFD) unmount() error {
	err := unix.Unmount(fmt.Sprintf("/proc/self/fd/%d", fd), unix.MNT_DETACH)
	if err != nil && !errors.Is(err, unix.EINVAL) { // it is none any more: it has just gone with the host's
		return fmt.Errorf("unmount a part of the share: %w", err)
	}
	return nil
}

// release asks the host once more: from a daemon with one thread the answer comes after those to all earlier requests.
func (fd mountFD) release() {
	var fs unix.Statfs_t
	_ = unix.Fstatfs(int(fd), &fs)
	_ = unix.Close(int(fd))
}
