// Package pidfd deals with processes that this one has not started: it holds one, kills it, and waits for its end,
// whoever reaps it.
//
//	p, err := pidfd.Open(pid)      // nil if there is none
//	defer p.Close()
//	if itIsTheOne(pid) { … }       // the number cannot become somebody else's from here on
//	err = p.Kill(ctx)
//
// How a process is known to be the right one is the callers' business and must not move in here.
package pidfd

import (
	"context"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sys/unix"
)

// Process is one process, for as long as it is open, even when its number is used again.
type Process struct {
	pid, fd int
}

// Open holds the process. It is nil, without an error, if there is no such process; a nil Process has ended.
func Open(pid int) (*Process, error) {
	if pid <= 1 {
		return nil, nil // none that anybody here has started
	}
	fd, err := unix.PidfdOpen(pid, 0)
	if errors.Is(err, unix.ESRCH) || errors.Is(err, unix.EINVAL) { // EINVAL: a thread's number
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("process %d: %w", pid, err)
	}
	return &Process{pid, fd}, nil
}

// Close lets go of it.
func (p *Process) Close() {
	if p != nil {
		_ = unix.Close(p.fd)
	}
}

// Kill sends SIGKILL and waits for the end.
func (p *Process) Kill(ctx context.Context) error {
	if p == nil {
		return nil
	}
	if err := unix.PidfdSendSignal(p.fd, unix.SIGKILL, nil, 0); err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("kill process %d: %w", p.pid, err)
	}
	return p.Wait(ctx)
}

// look is the time between looks at the caller's context; the end itself is noticed at once.
const look = 50 * time.Millisecond

// Wait waits for the end.
func (p *Process) Wait(ctx context.Context) error {
	if p == nil {
		return nil
	}
	for {
		ready, err := unix.Poll([]unix.PollFd{{Fd: int32(p.fd), Events: unix.POLLIN}}, int(look.Milliseconds()))
		switch {
		case ready > 0:
			return nil
		case err != nil && !errors.Is(err, unix.EINTR):
			return fmt.Errorf("wait for process %d: %w", p.pid, err)
		case ctx.Err() != nil:
			return fmt.Errorf("process %d does not end: %w", p.pid, context.Cause(ctx))
		}
	}
}
