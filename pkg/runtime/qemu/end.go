package qemu

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"time"

	"github.com/katadirect/katadirect/pkg/runtime/qmp"
	"github.com/katadirect/katadirect/pkg/runtime/vm"
)

// How long Stop waits before it uses force, and then for force to work. A process that SIGKILL does not end hangs in
// the kernel, on storage that does not answer.
const (
	quitGrace = 2 * time.Second
	killGrace = 10 * time.Second
	// endGrace is how long QEMU may take to end by itself once it has said that it does. What the guest has flushed is
	// the host's by then.
	endGrace = 5 * time.Second
)

// quoted bounds how much of QEMU's or the guest's own words goes into an error, in bytes.
const quoted = 1 << 10

var errStopped = errors.New("it was stopped")

// attend owns a running machine until its end: it carries the console out, and when QEMU is gone for whatever reason
// gathers why and says so.
func (m *Machine) attend(r *running, console net.Conn) {
	var reading sync.WaitGroup
	reading.Go(func() { drain(console, r.console) })
	select {
	case <-r.process.exited:
	case <-r.watch.ending:
		// QEMU 7.2 can hang after that, when a QMP command came in just then: cleaning up, it waits for the command.
		r.process.killAfter(endGrace)
	case <-r.qmp.Done():
		// QEMU closes its end only when it ends. If it does not end, nobody could control it any more.
		r.process.killAfter(quitGrace)
	}
	// With the process all its sockets are closed; each reader ends by itself after the last word.
	reading.Wait()
	<-r.qmp.Done()
	_ = r.qmp.Close()
	r.watch.wait()
	m.disks.release()

	m.mu.Lock()
	defer m.mu.Unlock()
	if !m.stopped {
		m.reason = r.reason()
		m.cfg.Log.Error("virtual machine ended", "reason", m.reason)
	}
	close(m.done)
}

// drain carries everything over that from says until it ends.
func drain(from net.Conn, to *lines) {
	_, _ = io.Copy(to, from) // however it ends, it has ended
	to.flushAll()
	_ = from.Close()
}

// reason says in one sentence why the machine ended by itself.
func (r *running) reason() error {
	switch r.watch.shutdownReason() {
	case "guest-shutdown":
		// An agent that cannot go on says why before it does this.
		return fmt.Errorf("the guest powered itself off; its last words: %q", r.console.lastWords(quoted))
	case "guest-reset", "guest-panic":
		if words := r.console.before("Kernel panic", quoted); words != "" {
			return fmt.Errorf("the guest's kernel panicked: %s", words)
		}
		return fmt.Errorf("the guest rebooted; its last words: %q", r.console.lastWords(quoted))
	}
	if words := r.stderr.lastWords(quoted); words != "" {
		return fmt.Errorf("%s: %s", r.process.ending(), words)
	}
	return errors.New(r.process.ending())
}

// gone is ErrGone with the reason; valid once done is closed.
func (m *Machine) gone() error {
	if m.reason == nil {
		return fmt.Errorf("%w: %w", vm.ErrGone, errStopped)
	}
	return fmt.Errorf("%w: %w", vm.ErrGone, m.reason)
}

// whileAlive returns a context that ends with the machine too, then with ErrGone for its cause. release must be called.
func (m *Machine) whileAlive(ctx context.Context) (_ context.Context, release func()) {
	ctx, cancel := context.WithCancelCause(ctx)
	var watching sync.WaitGroup
	watching.Go(func() {
		select {
		case <-m.done:
			cancel(m.gone())
		case <-ctx.Done():
		}
	})
	return ctx, func() {
		cancel(nil)
		watching.Wait()
	}
}

// explain turns the end of the QMP session into the end of the machine, which is what the caller can understand.
func (m *Machine) explain(err error) error {
	if !errors.Is(err, qmp.ErrClosed) {
		return err
	}
	select {
	case <-m.done: // follows within quitGrace
		return m.gone()
	case <-time.After(quitGrace + killGrace):
		return err // the host's kernel holds the process; the caller must not hang with it
	}
}

// Stop implements vm.Machine. It asks QEMU to quit, kills it when it does not or when ctx ends, and waits for its
// end in either case. Nothing the guest was told to be durable depends on which way it went.
func (m *Machine) Stop(ctx context.Context) error {
	m.life.Lock()
	defer m.life.Unlock()
	m.mu.Lock()
	m.stopped = true
	run := m.run
	m.mu.Unlock()
	if run == nil {
		return nil // a failed Start has undone itself
	}
	run.quit(ctx)
	select {
	case <-m.done:
	case <-time.After(killGrace):
		return fmt.Errorf("stop virtual machine: process %d does not die, the host's kernel holds it", run.process.pid)
	}
	if err := os.RemoveAll(m.cfg.Dir); err != nil {
		return fmt.Errorf("stop virtual machine: %w", err)
	}
	return nil
}

// quit makes QEMU end, sooner or later.
func (r *running) quit(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, quitGrace)
	defer cancel()
	if err := r.qmp.Run(ctx, "quit", nil, nil); err == nil {
		select {
		case <-r.process.exited:
		case <-ctx.Done():
		}
	}
	r.process.kill()
}
