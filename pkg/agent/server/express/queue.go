package express

import (
	"context"
	"sync"
)

// queues are lines that wait, by name. One that nobody stands in takes no
// room.
type queues struct {
	mu   sync.Mutex
	last map[string]*turn
}

func newQueues() *queues { return &queues{last: map[string]*turn{}} }

// turn is a place in a line.
type turn struct {
	queues *queues
	name   string
	before *turn         // nil for the first
	done   chan struct{} // closed when the next may go on
}

// join takes the last place.
func (q *queues) join(name string) *turn {
	q.mu.Lock()
	defer q.mu.Unlock()
	t := &turn{queues: q, name: name, before: q.last[name], done: make(chan struct{})}
	q.last[name] = t
	return t
}

// wait returns when all who came before have left.
func (t *turn) wait(ctx context.Context) error {
	if t.before == nil {
		return nil
	}
	select {
	case <-t.before.done:
		t.before = nil
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// leave lets the next go on, but not before those who came first: who has
// stopped waiting keeps the place until then.
func (t *turn) leave() {
	if t.before != nil {
		<-t.before.done
	}
	t.queues.mu.Lock()
	if t.queues.last[t.name] == t {
		delete(t.queues.last, t.name)
	}
	t.queues.mu.Unlock()
	close(t.done)
}
