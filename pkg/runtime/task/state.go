package task

import (
	"context"
	"fmt"
	"sync"
	"time"

	tasktypes "github.com/containerd/containerd/api/types/task"
)

// A process is in one of these states. Each is a type, and its methods are the only moves out of it, so that a move
// which makes no sense does not compile:
//
//	creating ─▶ created ─▶ starting ─▶ running ◀─▶ paused
//	    │          │           │          │           │
//	    │          └───────────┴────┬─────┴───────────┘
//	    ▼                           ▼
//	   gone ◀────── deleting ◀─▶ stopped
//
// creating, starting and deleting are under way in a call to the sandbox; who comes meanwhile is refused, or waits
// with process.settled.
type (
	creating struct{}
	created  struct{}
	starting struct{}
	running  struct{}
	paused   struct{}
	stopped  struct{ Exit }
	deleting struct{ Exit }
	gone     struct{ Exit }
)

// Exit says how and when a process ended.
type Exit struct {
	// Status is its exit code, or 128 and the number of the signal that ended it.
	Status uint32
	At     time.Time
}

func (creating) created() created  { return created{} }
func (creating) failed() gone      { return gone{} }
func (created) start() starting    { return starting{} }
func (starting) started() running  { return running{} }
func (running) pause() paused      { return paused{} }
func (paused) resume() running     { return running{} }
func (created) exit(e Exit) state  { return stopped{e} }
func (starting) exit(e Exit) state { return stopped{e} }
func (running) exit(e Exit) state  { return stopped{e} }
func (paused) exit(e Exit) state   { return stopped{e} }
func (s stopped) delete() deleting { return deleting(s) }
func (d deleting) failed() stopped { return stopped(d) }
func (d deleting) done() gone      { return gone(d) }

// state is what all states have in common: a name for people and one for containerd.
type state interface {
	String() string
	status() tasktypes.Status
}

// alive are the states of a process that can still end.
type alive interface {
	state
	exit(Exit) state
}

func (creating) String() string { return "still being created" }
func (created) String() string  { return "created but not started" }
func (starting) String() string { return "being started" }
func (running) String() string  { return "running" }
func (paused) String() string   { return "paused" }
func (stopped) String() string  { return "stopped" }
func (deleting) String() string { return "being deleted" }
func (gone) String() string     { return "deleted" }

func (creating) status() tasktypes.Status { return tasktypes.Status_UNKNOWN }
func (created) status() tasktypes.Status  { return tasktypes.Status_CREATED }
func (starting) status() tasktypes.Status { return tasktypes.Status_CREATED }
func (running) status() tasktypes.Status  { return tasktypes.Status_RUNNING }
func (paused) status() tasktypes.Status   { return tasktypes.Status_PAUSED }
func (stopped) status() tasktypes.Status  { return tasktypes.Status_STOPPED }
func (deleting) status() tasktypes.Status { return tasktypes.Status_STOPPED }
func (gone) status() tasktypes.Status     { return tasktypes.Status_UNKNOWN }

// life is the state of one process, with its lock. The zero value is not ready; newLife makes one.
type life struct {
	// reaped is closed when it is known how the process ended, of which nobody is told before exited.
	reaped chan struct{}
	// exited is closed when the process has stopped and its exit has been published.
	exited chan struct{}

	mu      sync.Mutex
	state   state         // guarded by mu
	changed chan struct{} // guarded by mu; closed and replaced at every move
}

func newLife(s state) *life {
	return &life{reaped: make(chan struct{}), exited: make(chan struct{}), state: s, changed: make(chan struct{})}
}

// now returns the state as it is at this moment.
func (l *life) now() state {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.state
}

// move takes l from a state of type From to what step makes of it. In any other state it changes nothing and returns
// an ErrState that says what could not be done and why.
func move[From, To state](l *life, verb string, step func(From) To) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	from, ok := l.state.(From)
	if !ok {
		return fmt.Errorf("cannot %s: it is %s: %w", verb, l.state, ErrState)
	}
	l.state = step(from)
	close(l.changed)
	l.changed = make(chan struct{})
	return nil
}

// settled waits until no call is under way that will change the state by itself, and returns the state.
func (l *life) settled(ctx context.Context) (state, error) {
	for {
		l.mu.Lock()
		now, changed := l.state, l.changed
		l.mu.Unlock()
		switch now.(type) {
		case creating, starting, deleting:
		default:
			return now, nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return now, fmt.Errorf("waiting while it is %s: %w", now, ctx.Err())
		}
	}
}

// exit returns how the process ended; ok is false if it has not.
func (l *life) exit() (e Exit, ok bool) {
	switch s := l.now().(type) {
	case stopped:
		return s.Exit, true
	case deleting:
		return s.Exit, true
	case gone:
		return s.Exit, true
	default:
		return Exit{}, false
	}
}
