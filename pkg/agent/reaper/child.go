package reaper

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// Child is a process that the Reaper waits for.
type Child struct {
	reaper *Reaper
	pid    int
	done   chan struct{}
	status unix.WaitStatus // valid once done is closed
}

func newChild(r *Reaper, pid int) *Child {
	return &Child{reaper: r, pid: pid, done: make(chan struct{})}
}

func (c *Child) exited(status unix.WaitStatus) {
	c.status = status
	close(c.done)
}

// PID is the process id in the agent's own namespace.
func (c *Child) PID() int { return c.pid }

// Done is closed when the process has exited.
func (c *Child) Done() <-chan struct{} { return c.done }

// Status is the exit code, or 128 and the number of the signal that ended the
// process, as a shell has it. Call it after Done.
func (c *Child) Status() int {
	<-c.done
	if c.status.Signaled() {
		return 128 + int(c.status.Signal())
	}
	return c.status.ExitStatus()
}

// Signal sends a signal, or returns ErrExited. It cannot hit a stranger that
// was given the same process id, because the id is free only once reaped.
func (c *Child) Signal(sig unix.Signal) error {
	c.reaper.mu.Lock()
	defer c.reaper.mu.Unlock()
	select {
	case <-c.done:
		return ErrExited
	default:
	}
	if err := unix.Kill(c.pid, sig); err != nil {
		return fmt.Errorf("signal process %d: %w", c.pid, err)
	}
	return nil
}
