package csi

import (
	"context"
	"sync"
	"time"
)

const (
	// poolPatience bounds how long the pool's file system is waited for.
	poolPatience = 2 * time.Second
	// lookPatience bounds how long one volume is looked at: its guest, or its mount, has two seconds of that, and the
	// pool's file system the rest.
	lookPatience = 2*time.Second + poolPatience
	// lookGrace is what is left for the pool's file system when the caller's time is over.
	lookGrace = 250 * time.Millisecond
)

// askDisk asks what only the pool's disk can answer, and reports whether that was in time. Who hangs on a disk hangs for
// good, whatever becomes of ctx; he keeps busy, which is of 1, and nobody else is sent after him.
func askDisk[T any](ctx context.Context, busy chan struct{}, ask func(context.Context) T) (answer T, answered bool) {
	ctx, cancel := context.WithTimeout(ctx, poolPatience)
	defer cancel()
	select {
	case busy <- struct{}{}:
	case <-ctx.Done():
		return answer, false
	}
	answers := make(chan T, 1)
	go func() {
		defer func() { <-busy }()
		answers <- ask(context.WithoutCancel(ctx))
	}()
	select {
	case answer = <-answers:
		return answer, true
	case <-ctx.Done():
		return answer, false
	}
}

// patience is how long a look at a volume is waited for: it has to end soon after the caller's time is over.
func patience(ctx context.Context) time.Duration {
	if deadline, bounded := ctx.Deadline(); bounded {
		return min(lookPatience, max(0, time.Until(deadline))+lookGrace)
	}
	return lookPatience
}

// within runs look, which may wait for the pool's disk for good: then it is left behind, and until it ends nobody waits for
// another look at that volume. It reports whether there was an answer.
func within[T any](ctx context.Context, looking *sync.Map, id string, look func() (T, error)) (result T, answered bool, err error) {
	if since, busy := looking.LoadOrStore(id, time.Now()); busy && time.Since(since.(time.Time)) > lookPatience {
		return result, false, nil
	}
	type answer struct {
		result T
		err    error
	}
	answers := make(chan answer, 1)
	go func() {
		defer looking.Delete(id)
		result, err := look()
		answers <- answer{result, err}
	}()
	select {
	case a := <-answers:
		return a.result, true, a.err
	case <-time.After(patience(ctx)):
		return result, false, nil
	}
}
