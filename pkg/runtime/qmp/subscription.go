package qmp

import (
	"context"
	"fmt"
	"sync/atomic"
)

// Subscription is a queue of events. Collect them with Next from one goroutine, and Close it in the end.
type Subscription struct {
	client  *Client
	match   func(Event) bool
	events  chan Event // closed, under client.mu, when the subscription or the client ends
	dropped atomic.Uint64
}

// Subscribe collects the events that match from now on, size of them at most: when the queue is full, newer ones
// are dropped and counted. match runs in the reader's goroutine and must not block. Subscribe before running the
// command that leads to the event.
func (c *Client) Subscribe(size int, match func(Event) bool) *Subscription {
	s := &Subscription{client: c, match: match, events: make(chan Event, size)}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err != nil {
		close(s.events)
		return s
	}
	c.subs[s] = struct{}{}
	return s
}

// Named matches events by name.
func Named(names ...string) func(Event) bool {
	return func(e Event) bool {
		for _, name := range names {
			if e.Name == name {
				return true
			}
		}
		return false
	}
}

// offer is called with client.mu held.
func (s *Subscription) offer(e Event) {
	if !s.match(e) {
		return
	}
	select {
	case s.events <- e:
	default:
		s.dropped.Add(1)
	}
}

// Next returns the oldest event not yet collected and waits for one if there is none. After the end of the client
// it hands out what is left and then the reason, which wraps ErrClosed.
func (s *Subscription) Next(ctx context.Context) (Event, error) {
	select {
	case e, ok := <-s.events:
		if ok {
			return e, nil
		}
		if err := s.client.Err(); err != nil {
			return Event{}, err
		}
		return Event{}, fmt.Errorf("%w: the subscription is closed", ErrClosed)
	case <-ctx.Done():
		return Event{}, context.Cause(ctx)
	}
}

// Dropped counts the events that found the queue full.
func (s *Subscription) Dropped() uint64 { return s.dropped.Load() }

// Close ends the subscription; a waiting Next returns. It may be called more than once.
func (s *Subscription) Close() {
	s.client.mu.Lock()
	defer s.client.mu.Unlock()
	if _, ok := s.client.subs[s]; ok {
		delete(s.client.subs, s)
		close(s.events)
	}
}
