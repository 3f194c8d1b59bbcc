package directvolume

import (
	"sync"

	"golang.org/x/sys/unix"
)

// A record is gone when its folder has lost its name. To empty the folder takes longer than all the rest, on a disk that
// gives freed space back at once above all: a process that lives on does it beside. What a process leaves that is killed
// meanwhile goes the way of every folder that was in the making (sweepOnce).

// maxBackground is how many pieces of work there are at once. Whoever has more than that does it himself.
const maxBackground = 4

// background is work that callers do not wait for. Close ends it.
type background struct {
	all sync.WaitGroup

	mu    sync.Mutex // guards all below
	busy  int
	ended bool
}

// WithBackground makes Remove return when the record is gone, and has its folder be emptied beside. It is for processes
// that live on. They have to Close the Store when they end.
func WithBackground() StoreOption {
	return func(s *Store) { s.background = &background{} }
}

// Close waits for what is done in the background. From then on nothing is.
func (s *Store) Close() {
	b := s.background
	if b == nil {
		return
	}
	b.mu.Lock()
	b.ended = true
	b.mu.Unlock()
	b.all.Wait()
}

// try starts the work, unless there is too much of it already.
func (b *background) try(work func()) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.ended || b.busy == maxBackground {
		return false
	}
	b.busy++
	b.all.Go(func() {
		work()
		b.mu.Lock()
		defer b.mu.Unlock()
		b.busy--
	})
	return true
}

// dispose empties a folder that has been renamed to a temporary name, and removes it. The files are those that it holds
// for all that is known.
func (s *Store) dispose(root *rootDir, f *folder, temp string, files []string) error {
	if s.background == nil {
		return empty(root, f, temp, files)
	}
	later := *f
	if own, err := root.dup(); err == nil {
		if s.background.try(func() {
			defer own.close()
			defer later.close()
			_ = empty(own, &later, temp, files) // the next one that sweeps will do it
		}) {
			f.fd = -1 // it has gone to the background, with its lock
			return nil
		}
		own.close()
	}
	return empty(root, f, temp, files)
}

func empty(root *rootDir, f *folder, temp string, files []string) error {
	// Most hold nothing but the file, or a claim besides, and need not be read again for that.
	for _, file := range files {
		unix.Unlinkat(f.fd, file, 0)
	}
	if unix.Unlinkat(root.fd(), temp, unix.AT_REMOVEDIR) == nil {
		return nil
	}
	return root.removeAll(temp)
}
