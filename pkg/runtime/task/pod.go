package task

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"
)

// stopTimeout bounds the end of a machine. The sandbox kills what does not stop by itself long before.
const stopTimeout = time.Minute

// dyingGrace is how long the end of a machine may take to be noticed after that of the connection to its agent.
const dyingGrace = 4 * time.Second

// errStopped is why a machine is gone that was asked to go.
var errStopped = errors.New("the machine was stopped")

// pod is the machine of this shim, and its end.
type pod struct {
	Sandbox
	id string
	// alive ends with the machine; its cause says why.
	alive context.Context
	log   *slog.Logger

	stopping sync.Mutex // one Stop at a time
	stopped  bool       // guarded by stopping
}

// newPod watches the machine until it is gone, and then gives back what is left of it. The goroutine is tasks'.
func newPod(id string, sb Sandbox, log *slog.Logger, tasks *sync.WaitGroup) *pod {
	alive, gone := context.WithCancelCause(context.Background())
	p := &pod{Sandbox: sb, id: id, alive: alive, log: log}
	tasks.Go(func() {
		<-sb.Done()
		cause := sb.Err()
		if cause == nil {
			gone(errStopped)
			return
		}
		log.Error("the machine is gone; every process in it is reported as killed", "error", cause)
		gone(cause)
		if err := p.stop(context.Background()); err != nil {
			log.Error("clean up after the machine", "error", err)
		}
	})
	return p
}

// stop ends the machine and gives back all the pod used. The caller's giving up does not stop it half way.
func (p *pod) stop(ctx context.Context) error {
	p.stopping.Lock()
	defer p.stopping.Unlock()
	if p.stopped {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopTimeout)
	defer cancel()
	if err := p.Sandbox.Stop(ctx); err != nil {
		return err
	}
	p.stopped = true
	return nil
}

// dying tells, of a call to the guest that has failed, whether it did so because the machine is on its way out.
func (p *pod) dying(ctx context.Context) bool {
	select {
	case <-p.alive.Done():
		return true
	case <-time.After(dyingGrace):
	case <-ctx.Done():
	}
	return p.alive.Err() != nil
}
