package process

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// leastRead is how much is asked for at least, in bytes; a pipe says how much
// there is, a terminal not always.
const leastRead = 4 << 10

// output is where a process writes to.
//
// It ends when nobody holds the other end any more; or, once the process
// itself has exited, after a short while, for whoever it left in the
// background may hold the other end for ever. What the process had written by
// the time of its exit is always delivered first.
type output struct {
	file *os.File
	turn chan struct{} // held by the one that reads
	// count is held while something is taken, and while what is owed is
	// counted, so that nothing is in between. Whoever has it may wait for the
	// pipe's lock, which a process has that writes from memory that is slow to
	// come; so nothing that others wait for is held with it. It comes before mu.
	count sync.Mutex

	mu     sync.Mutex
	exited bool
	// owed is what the process had written and nobody had read when it
	// exited, in bytes, less what was read since.
	owed    int
	expires time.Time // end of the time that is granted after the exit
	eof     bool
	closed  bool
}

func newOutput(f *os.File) *output {
	return &output{file: f, turn: make(chan struct{}, 1)}
}

// read waits for at least a byte and returns at most limit; none at the end.
func (o *output) read(ctx context.Context, limit int) (data []byte, err error) {
	if limit <= 0 {
		return nil, fmt.Errorf("read of %d bytes: %w", limit, unix.EINVAL)
	}
	n, err := o.take(ctx, func(fd int) (_ int, err error) {
		data, err = readAvailable(fd, limit)
		return len(data), err
	})
	return data[:n], err
}

// Taker takes output in its own way.
type Taker interface {
	// Ready waits until something may be taken.
	Ready(ctx context.Context) error
	// Take takes what there is and returns how much that is, in bytes. It
	// does not wait: unix.EAGAIN says that there is nothing, io.EOF that
	// there never will be.
	Take(fd int) (int, error)
	// Taken is called when so much of it counts: all that was taken.
	Taken(bytes int) error
}

// pour has to take everything from the next byte to the end.
func (o *output) pour(ctx context.Context, to Taker) error {
	return o.reading(ctx, func(raw syscall.RawConn) error {
		for !o.ended() {
			if err := to.Ready(ctx); err != nil {
				return err
			}
			n, err := o.taken(ctx, raw, to.Take)
			if n == 0 || err != nil {
				return err
			}
			if err := to.Taken(n); err != nil {
				return err
			}
		}
		return nil
	})
}

// take waits until once, which takes what is there, has something or is at the
// end, and returns how much of it counts: all or none.
func (o *output) take(ctx context.Context, once func(fd int) (int, error)) (n int, err error) {
	err = o.reading(ctx, func(raw syscall.RawConn) (err error) {
		if o.ended() {
			return nil
		}
		n, err = o.taken(ctx, raw, once)
		return err
	})
	return n, err
}

// reading has do read, when it is its turn, until ctx ends.
func (o *output) reading(ctx context.Context, do func(raw syscall.RawConn) error) error {
	select {
	case o.turn <- struct{}{}:
		defer func() { <-o.turn }()
	case <-ctx.Done():
		return ctx.Err()
	}
	raw, err := o.file.SyscallConn()
	if err != nil {
		return err
	}
	release := interruptible(ctx, o.file.SetReadDeadline)
	defer func() {
		release()
		o.restoreDeadline()
	}()
	return do(raw)
}

// taken blocks until there is something, or the stream's end, or the deadline
// set at the process's exit. The caller has the turn.
func (o *output) taken(ctx context.Context, raw syscall.RawConn, once func(fd int) (int, error)) (n int, err error) {
	counted := func(fd int) (int, error) {
		o.count.Lock()
		defer o.count.Unlock()
		n, err := once(fd)
		if err != nil {
			return n, err
		}
		return o.account(n), nil
	}
	var takeErr error
	err = raw.Read(func(fd uintptr) bool {
		n, takeErr = counted(int(fd))
		return !errors.Is(takeErr, unix.EAGAIN)
	})
	if err = errors.Join(err, takeErr); errors.Is(err, os.ErrDeadlineExceeded) {
		if ctx.Err() != nil {
			return 0, ctx.Err()
		}
		// The time after the exit is over. What is there now may still be owed.
		n, err = takeNow(raw, counted)
	}
	if err != nil {
		return 0, o.ending(err)
	}
	return n, nil
}

// takeNow takes what is there without waiting.
func takeNow(raw syscall.RawConn, once func(fd int) (int, error)) (n int, err error) {
	var takeErr error
	err = raw.Control(func(fd uintptr) { n, takeErr = once(int(fd)) })
	if errors.Is(takeErr, unix.EAGAIN) {
		return 0, io.EOF
	}
	return n, errors.Join(err, takeErr)
}

// readAvailable reads once, into a buffer of the size of what is there.
func readAvailable(fd, limit int) ([]byte, error) {
	size := leastRead
	if waiting, err := unix.IoctlGetInt(fd, unix.TIOCINQ); err == nil {
		size = max(size, waiting)
	}
	data := make([]byte, min(size, limit))
	n, err := ReadOnce(fd, data)
	return data[:n], err
}

// ReadOnce reads what is there. It is what a Taker needs to take by copying: the
// end of a pipe and that of a terminal are io.EOF.
func ReadOnce(fd int, into []byte) (int, error) {
	for {
		n, err := unix.Read(fd, into)
		switch {
		case errors.Is(err, unix.EINTR):
		case errors.Is(err, unix.EIO): // a terminal whose other side is closed
			return 0, io.EOF
		case err != nil:
			return 0, err
		case n == 0:
			return 0, io.EOF
		default:
			return n, nil
		}
	}
}

// ending turns the end of the stream into no data.
func (o *output) ending(err error) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	if errors.Is(err, io.EOF) || errors.Is(err, os.ErrClosed) || o.closed {
		o.eof = true
		return nil
	}
	return fmt.Errorf("read output: %w", err)
}

// account keeps count of what is owed after the exit, and returns how much of
// what was taken counts. The caller has count.
func (o *output) account(n int) int {
	o.mu.Lock()
	defer o.mu.Unlock()
	switch {
	case !o.exited:
		return n
	case o.owed <= 0 && time.Now().After(o.expires):
		// Only background processes can have written this, and they had
		// their time.
		o.eof = true
		return 0
	}
	o.owed -= n
	return n
}

// processExited notes what is owed, and starts the time that others have.
func (o *output) processExited() {
	o.count.Lock()
	defer o.count.Unlock()
	owed := 0
	if raw, err := o.file.SyscallConn(); err == nil {
		_ = raw.Control(func(fd uintptr) { owed, _ = unix.IoctlGetInt(int(fd), unix.TIOCINQ) })
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.closed {
		return
	}
	o.exited, o.owed, o.expires = true, owed, time.Now().Add(afterExit)
	_ = o.file.SetReadDeadline(o.expires)
}

func (o *output) restoreDeadline() {
	o.mu.Lock()
	defer o.mu.Unlock()
	if !o.closed {
		_ = o.file.SetReadDeadline(o.expires)
	}
}

func (o *output) ended() bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.eof
}

func (o *output) close() error {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.closed {
		return nil
	}
	o.closed, o.eof = true, true
	if err := o.file.Close(); err != nil && !errors.Is(err, os.ErrClosed) {
		return err
	}
	return nil
}
