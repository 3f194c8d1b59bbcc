// Package reaper owns the wait for child processes. As the first process of
// the machine the agent inherits every orphan and must wait for all of them,
// and a loop that does cannot stand beside anyone else's wait for one process:
// so every program the agent runs is started here, and nothing in pkg/agent
// may call exec.Cmd's Wait, Run or Output.
//
//	r := reaper.New()
//	defer r.Stop()
//	child, err := r.Start(cmd)            // a program of our own
//	child, err = r.Adopt(func() (int, error) { … })  // one that another left behind
//	<-child.Done()
//	status := child.Status()
package reaper

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"sync"

	"golang.org/x/sys/unix"
)

// ErrExited is returned when a process that is gone is to be signalled.
var ErrExited = errors.New("process has exited")

// Reaper waits for all children of this process.
type Reaper struct {
	signals chan os.Signal
	stop    chan struct{}
	stopped chan struct{}

	mu       sync.Mutex
	children map[int]*Child
	// adopting counts the Adopt calls under way; as long as there are any,
	// strangers' exits are kept, for one may be the process they wait for.
	adopting  int
	unclaimed map[int]unix.WaitStatus
}

// New starts the loop. There must be one Reaper in a process.
func New() *Reaper {
	r := &Reaper{
		signals:   make(chan os.Signal, 1),
		stop:      make(chan struct{}),
		stopped:   make(chan struct{}),
		children:  make(map[int]*Child),
		unclaimed: make(map[int]unix.WaitStatus),
	}
	signal.Notify(r.signals, unix.SIGCHLD)
	go r.loop()
	return r
}

// Stop ends the loop and waits for it. Children that still run are left alone.
func (r *Reaper) Stop() {
	signal.Stop(r.signals)
	close(r.stop)
	<-r.stopped
}

func (r *Reaper) loop() {
	defer close(r.stopped)
	for {
		select {
		case <-r.signals:
			r.reap()
		case <-r.stop:
			return
		}
	}
}

// reap collects every child that has exited. One signal may stand for many.
func (r *Reaper) reap() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for {
		var status unix.WaitStatus
		pid, err := unix.Wait4(-1, &status, unix.WNOHANG, nil)
		if err == unix.EINTR {
			continue
		}
		if err != nil || pid <= 0 {
			return
		}
		if child, ok := r.children[pid]; ok {
			delete(r.children, pid)
			child.exited(status)
		} else if r.adopting > 0 {
			r.unclaimed[pid] = status
		}
	}
}

// Start starts cmd, whose standard streams must be files or nil: nobody calls
// its Wait, so nothing would copy them.
func (r *Reaper) Start(cmd *exec.Cmd) (*Child, error) {
	// The lock keeps a child that exits at once from being reaped before it
	// is known.
	r.mu.Lock()
	defer r.mu.Unlock()
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", cmd.Path, err)
	}
	child := newChild(r, cmd.Process.Pid)
	r.children[child.pid] = child
	// The handle is of no more use, and would keep a descriptor.
	_ = cmd.Process.Release()
	return child, nil
}

// Adopt runs start, which makes a process that will be an orphan and returns
// its id, and returns that process as a child, also when it has already
// exited.
func (r *Reaper) Adopt(start func() (pid int, err error)) (*Child, error) {
	r.mu.Lock()
	r.adopting++
	r.mu.Unlock()

	pid, err := start()

	r.mu.Lock()
	defer r.mu.Unlock()
	r.adopting--
	status, gone := r.unclaimed[pid]
	if r.adopting == 0 {
		clear(r.unclaimed)
	}
	if err != nil {
		return nil, err
	}
	child := newChild(r, pid)
	if gone {
		delete(r.unclaimed, pid)
		child.exited(status)
	} else {
		r.children[pid] = child
	}
	return child, nil
}
