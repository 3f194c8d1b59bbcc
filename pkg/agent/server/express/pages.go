package express

import (
	"errors"
	"fmt"
	"io"
	"syscall"

	"golang.org/x/sys/unix"
)

// pages takes a pipe's pages, without copying.
//
// They go into a pipe of its own first: what is there can be counted on,
// whatever the container does meanwhile to its end, which it can also read. The
// frame's beginning is put before them there, so that the channel is given the
// frame as a whole: each piece costs the guest and the host the same, however
// short it is.
//
// The system calls do not wait for anything, and are made without telling Go's
// scheduler, which would give the processor's place to another thread, and have
// to find this one a place again.
type pages struct {
	*Sender
	from, to   int // the pipe
	pieceBytes int
	// begun is how long the frame's beginning is that is in the pipe.
	begun int
}

// Pages sends pieces of at most so many bytes from a pipe.
func (s *Sender) Pages(pieceBytes int) (Taker, error) {
	var ends [2]int
	if err := unix.Pipe2(ends[:], unix.O_CLOEXEC|unix.O_NONBLOCK); err != nil {
		return nil, fmt.Errorf("send output: %w", err)
	}
	// Only for speed. What comes before a piece takes a page's place, but only
	// root may have more than 1 MiB.
	if _, err := unix.FcntlInt(uintptr(ends[1]), unix.F_SETPIPE_SZ, 2*pieceBytes); err != nil {
		_, _ = unix.FcntlInt(uintptr(ends[1]), unix.F_SETPIPE_SZ, pieceBytes)
	}
	return &pages{Sender: s, from: ends[0], to: ends[1], pieceBytes: pieceBytes}, nil
}

// Take implements process.Taker.
func (p *pages) Take(fd int) (int, error) {
	limit := min(p.pieceBytes, p.mayTake())
	waiting := 0
	if n, err := unix.IoctlGetInt(fd, unix.TIOCINQ); err == nil {
		waiting = min(n, limit)
	}
	p.begun = 0
	if waiting > 0 {
		n, err := unix.Write(p.to, p.beginning(waiting))
		if err != nil {
			return 0, err
		}
		p.begun = n
		limit = waiting
	}
	n, err := splice(fd, p.to, limit)
	if p.begun > 0 && n != waiting {
		// Somebody else has read some of it, or there are more pages than
		// places: the frame begins differently.
		if _, err := unix.Read(p.from, make([]byte, p.begun)); err != nil {
			return 0, err
		}
		p.begun = 0
	}
	if n == 0 && err == nil {
		return 0, io.EOF
	}
	return n, err
}

// Taken implements process.Taker.
func (p *pages) Taken(bytes int) error {
	p.spend(bytes)
	return p.conn.out.By(func() error {
		if p.begun == 0 {
			if _, err := p.conn.Conn.Write(p.beginning(bytes)); err != nil {
				return err
			}
		}
		return p.conn.move(p.from, p.begun+bytes)
	})
}

// Close implements Taker.
func (p *pages) Close() error { return errors.Join(unix.Close(p.from), unix.Close(p.to)) }

// splice has the kernel move bytes from one pipe to another, or to a channel.
func splice(from, to, bytes int) (int, error) {
	for {
		n, _, errno := unix.RawSyscall6(unix.SYS_SPLICE, uintptr(from), 0, uintptr(to), 0, uintptr(bytes),
			unix.SPLICE_F_MOVE|unix.SPLICE_F_NONBLOCK)
		switch errno {
		case 0:
			return int(n), nil
		case unix.EINTR:
		default:
			return 0, errno
		}
	}
}

// errShort says that a pipe had less in it than was said.
var errShort = errors.New("the pipe is empty before its end")

// move has the kernel move bytes from the pipe to the channel.
func (c *express) move(pipe, bytes int) error {
	to, ok := c.Conn.(syscall.Conn)
	if !ok {
		return fmt.Errorf("move output to the channel: %T has no descriptor", c.Conn)
	}
	raw, err := to.SyscallConn()
	if err != nil {
		return err
	}
	var moveErr error
	err = raw.Write(func(fd uintptr) bool {
		for bytes > 0 {
			n, err := splice(pipe, int(fd), bytes)
			switch {
			case errors.Is(err, unix.EAGAIN):
				return false
			case err != nil:
				moveErr = fmt.Errorf("move output to the channel: %w", err)
				return true
			case n == 0:
				moveErr = errShort
				return true
			}
			bytes -= n
		}
		return true
	})
	return errors.Join(err, moveErr)
}
