package container

import (
	"fmt"
	"os"
	"path/filepath"
	"sync"

	"golang.org/x/sys/unix"
)

// oomWatch counts the processes of a cgroup that the kernel has killed for
// want of memory, and tells of each increase.
type oomWatch struct {
	dir    string
	notify func()
	events *os.File // inotify
	done   chan struct{}

	mu   sync.Mutex
	seen uint64
}

// watchOOM watches until stop.
func watchOOM(dir string, notify func()) (*oomWatch, error) {
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return nil, fmt.Errorf("watch for want of memory: %w", err)
	}
	if _, err := unix.InotifyAddWatch(fd, filepath.Join(dir, "memory.events"), unix.IN_MODIFY); err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("watch for want of memory: %w", err)
	}
	w := &oomWatch{dir: dir, notify: notify, events: os.NewFile(uintptr(fd), "memory.events"), done: make(chan struct{})}
	go w.run()
	return w, nil
}

func (w *oomWatch) run() {
	defer close(w.done)
	// What changed is read from the file, not from the event.
	event := make([]byte, 16*(unix.SizeofInotifyEvent+unix.NAME_MAX+1))
	for {
		if _, err := w.events.Read(event); err != nil {
			return
		}
		w.look()
	}
}

// look reads the count now, and tells of an increase.
func (w *oomWatch) look() {
	w.mu.Lock()
	defer w.mu.Unlock()
	count := readKeyed(w.dir, "memory.events")["oom_kill"]
	if count > w.seen {
		w.seen = count
		w.notify()
	}
}

func (w *oomWatch) stop() {
	w.events.Close()
	<-w.done
}
