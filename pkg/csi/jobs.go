package csi

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime/debug"
	"sync"
	"time"
)

// jobs are copies, which may take longer than the calls that ask for them: a sidecar gives up after a minute, say, and
// calls again. The work belongs to the driver. A call waits for it as long as it can, and one that is repeated finds
// it under way. While it runs it holds the names of what it works on, so that nothing else happens to those.
type jobs struct {
	locks *locks
	log   *slog.Logger

	ctx     context.Context // ends with the driver
	end     context.CancelCauseFunc
	workers sync.WaitGroup

	mu      sync.Mutex
	running map[string]*job // by the id of what is made; guarded by mu
}

// job is one copy under way.
type job struct {
	request string // what was asked for, to tell a repeated call from another one
	cancel  context.CancelCauseFunc
	cut     chan struct{} // closed when the source is free to change
	done    chan struct{} // closed when all is done; err is set then
	err     error
}

var (
	errDriverEnds = errors.New("the driver is ending; the copy begins anew when the call is repeated")
	errDeleted    = errors.New("what was being made has been deleted")
)

func newJobs(held *locks, log *slog.Logger) *jobs {
	ctx, end := context.WithCancelCause(context.Background())
	return &jobs{locks: held, log: log, ctx: ctx, end: end, running: map[string]*job{}}
}

// close cancels what runs and waits for it.
func (j *jobs) close() {
	j.end(errDriverEnds)
	j.workers.Wait()
}

// start begins to make id, or finds that a call for the same has begun. It returns ErrBusy when something else is
// under way for id or one of the names. work calls cut at most once.
func (j *jobs) start(id, request string, names []string, work func(ctx context.Context, cut func()) error) (*job, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if present := j.running[id]; present != nil {
		if present.request != request {
			return nil, failf(ErrBusy, "%s is being made, and not as this call asks for it; repeat it when that has ended", id)
		}
		return present, nil
	}
	if j.ctx.Err() != nil {
		return nil, failf(ErrGuest, "%w", errDriverEnds)
	}
	release, taken := j.locks.try(append([]string{id}, names...)...)
	if release == nil {
		return nil, failf(ErrBusy, "another call for %s is under way; repeat this one when it has ended", taken)
	}
	ctx, cancel := context.WithCancelCause(j.ctx)
	w := &job{request: request, cancel: cancel, cut: make(chan struct{}), done: make(chan struct{})}
	j.running[id] = w
	j.workers.Go(func() {
		defer cancel(nil)
		began := time.Now()
		w.err = guarded(ctx, j.log, func() error { return work(ctx, sync.OnceFunc(func() { close(w.cut) })) })
		j.mu.Lock()
		delete(j.running, id)
		j.mu.Unlock()
		release()
		if w.err != nil {
			j.log.WarnContext(ctx, "a copy was not made", "id", id, "took", time.Since(began), "error", w.err)
		} else {
			j.log.InfoContext(ctx, "a copy is made", "id", id, "took", time.Since(began))
		}
		close(w.done)
	})
	return w, nil
}

// guarded turns a panic into an error: it must not end the calls of all other pods.
func guarded(ctx context.Context, log *slog.Logger, work func() error) (err error) {
	defer func() {
		if p := recover(); p != nil {
			log.ErrorContext(ctx, "panic", "panic", fmt.Sprint(p), "stack", string(debug.Stack()))
			err = errors.New("the driver failed while it copied; its log says where")
		}
	}()
	return work()
}

// stop cancels the making of id, if it is under way, and waits for its end.
func (j *jobs) stop(ctx context.Context, id string) error {
	j.mu.Lock()
	present := j.running[id]
	j.mu.Unlock()
	if present == nil {
		return nil
	}
	present.cancel(errDeleted)
	select {
	case <-present.done:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// wait returns the job's error when it is done. The job goes on when ctx ends first.
func (w *job) wait(ctx context.Context) error {
	select {
	case <-w.done:
		return w.err
	case <-ctx.Done():
		return failf(ctx.Err(), "it is still being copied; repeat the call: %w", ctx.Err())
	}
}

// answerMargin is what a call keeps of its time to answer in.
const answerMargin = 2 * time.Second

// waitCut is wait, but it returns early and without an error when the caller's time is nearly over and what is left to
// do does not concern the source any more.
func (w *job) waitCut(ctx context.Context) error {
	deadline, limited := ctx.Deadline()
	if !limited {
		return w.wait(ctx)
	}
	left := time.Until(deadline)
	early := time.NewTimer(left - min(answerMargin, left/4))
	defer early.Stop()
	select {
	case <-w.done:
		return w.err
	case <-ctx.Done():
	case <-early.C:
		select {
		case <-w.cut:
			return nil
		default:
		}
	}
	select {
	case <-w.done:
		return w.err
	case <-w.cut:
		return nil
	case <-ctx.Done():
		return w.wait(ctx)
	}
}
