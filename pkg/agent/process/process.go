package process

import (
	"context"
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/katadirect/katadirect/pkg/agent/reaper"
)

// Child is what runs: a child of the agent's as the reaper has it, or what
// stands for one.
type Child interface {
	// PID is the process's id in the agent's own namespace.
	PID() int
	// Done is closed when it has exited, and Status is how, after that.
	Done() <-chan struct{}
	Status() int
	// Signal returns reaper.ErrExited once it has exited.
	Signal(sig unix.Signal) error
}

// Process is a process that was started. Its methods may be called from
// several goroutines.
type Process struct {
	child   Child
	streams *Streams
}

// New binds a process to its streams. The Process owns both from here on;
// Close releases them.
func New(child Child, streams *Streams) *Process {
	p := &Process{child: child, streams: streams}
	go func() {
		<-child.Done()
		streams.processExited()
	}()
	return p
}

// PID is the process's id in the agent's own namespace.
func (p *Process) PID() int { return p.child.PID() }

// Done is closed when the process has exited.
func (p *Process) Done() <-chan struct{} { return p.child.Done() }

// Exited says whether the process has exited.
func (p *Process) Exited() bool {
	select {
	case <-p.child.Done():
		return true
	default:
		return false
	}
}

// Wait waits for the exit and returns the exit code, or 128 and the number of
// the signal that ended the process.
func (p *Process) Wait(ctx context.Context) (status int, err error) {
	select {
	case <-p.child.Done():
		return p.child.Status(), nil
	case <-ctx.Done():
		return 0, ctx.Err()
	}
}

// Signal sends a signal. A process that has exited takes every signal without
// complaint.
func (p *Process) Signal(sig unix.Signal) error {
	if err := p.child.Signal(sig); err != nil && !errors.Is(err, reaper.ErrExited) && !errors.Is(err, unix.ESRCH) {
		return err
	}
	return nil
}

// ReadStdout waits for output and returns at most limit bytes of it; none at
// the end of the stream. One caller at a time gets each byte.
func (p *Process) ReadStdout(ctx context.Context, limit int) ([]byte, error) {
	return p.streams.stdout.read(ctx, limit)
}

// ReadStderr is ReadStdout for the other stream. With a terminal there is only
// one, and both read from it.
func (p *Process) ReadStderr(ctx context.Context, limit int) ([]byte, error) {
	return p.streams.stderr.read(ctx, limit)
}

// PourStdout has to take the output from its next byte to its end, as ReadStdout
// would return it.
func (p *Process) PourStdout(ctx context.Context, to Taker) error {
	return p.streams.stdout.pour(ctx, to)
}

// PourStderr is PourStdout for the other stream.
func (p *Process) PourStderr(ctx context.Context, to Taker) error {
	return p.streams.stderr.pour(ctx, to)
}

// BeingRead says whether somebody reads output at this moment.
func (p *Process) BeingRead() bool { return len(p.streams.stdout.turn)+len(p.streams.stderr.turn) > 0 }

// Drained says whether both output streams were read to their end.
func (p *Process) Drained() bool { return p.streams.stdout.ended() && p.streams.stderr.ended() }

// WriteStdin waits until the process has room for all of data.
func (p *Process) WriteStdin(ctx context.Context, data []byte) (int, error) {
	if p.Exited() {
		return 0, ErrStdinClosed
	}
	return p.streams.stdin.write(ctx, data)
}

// CloseStdin ends the standard input. A terminal's is ended by what is typed,
// so there it does nothing. It may be called again.
func (p *Process) CloseStdin() error { return p.streams.closeStdin() }

// Resize sets the size of the process's terminal, in characters.
func (p *Process) Resize(rows, columns uint16) error {
	if p.streams.terminal == nil {
		return ErrNoTerminal
	}
	raw, err := p.streams.terminal.SyscallConn()
	if err != nil {
		return fmt.Errorf("resize terminal: %w", err)
	}
	var ioctlErr error
	err = raw.Control(func(fd uintptr) {
		ioctlErr = unix.IoctlSetWinsize(int(fd), unix.TIOCSWINSZ, &unix.Winsize{Row: rows, Col: columns})
	})
	if err := errors.Join(err, ioctlErr); err != nil {
		return fmt.Errorf("resize terminal: %w", err)
	}
	return nil
}

// Close releases the streams. Reads under way end.
func (p *Process) Close() error { return p.streams.Close() }
