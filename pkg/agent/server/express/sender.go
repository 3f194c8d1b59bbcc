package express

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"github.com/katadirect/katadirect/internal/ttrpcframe"
	"github.com/katadirect/katadirect/pkg/agentproto"
)

// Sender is a stream to the host. Only said is called from elsewhere than the
// stream's own goroutine.
type Sender struct {
	conn  *express
	id    uint32
	end   context.CancelFunc
	first chan *agentproto.OutputRequest

	mu     sync.Mutex
	opened bool          // guarded by mu: there was a first message
	credit int           // guarded by mu, in bytes
	woken  chan struct{} // holds one if there may be more credit
}

// said takes a message of the host's.
func (s *Sender) said(flags byte, message []byte) {
	if flags&ttrpcframe.FlagNoData == 0 {
		req := &agentproto.OutputRequest{}
		if err := proto.Unmarshal(message, req); err != nil {
			s.end()
			return
		}
		s.mu.Lock()
		s.credit += int(req.GetCredit())
		if !s.opened {
			s.opened = true
			s.first <- req
		}
		s.mu.Unlock()
		select {
		case s.woken <- struct{}{}:
		default: // it will look anyway
		}
	}
	if flags&ttrpcframe.FlagClosed != 0 {
		s.end()
	}
}

// Credit waits until something may be sent, and returns how much.
func (s *Sender) Credit(ctx context.Context) (bytes int, err error) {
	for {
		s.mu.Lock()
		bytes = s.credit
		s.mu.Unlock()
		if bytes > 0 {
			return bytes, nil
		}
		select {
		case <-s.woken:
		case <-ctx.Done():
			return 0, ctx.Err()
		}
	}
}

// dataField is the number of OutputData's data.
const dataField = 1

// beginning is what precedes so many bytes of data, which are taken off the
// credit.
func (s *Sender) beginning(bytes int) []byte {
	s.mu.Lock()
	s.credit -= bytes
	s.mu.Unlock()
	field := protowire.AppendVarint(protowire.AppendTag(nil, dataField, protowire.BytesType), uint64(bytes))
	return append(ttrpcframe.Head(len(field)+bytes, s.id, ttrpcframe.TypeData, 0), field...)
}

// Write sends data.
func (s *Sender) Write(data []byte) (int, error) {
	return len(data), s.conn.out.Whole(append(s.beginning(len(data)), data...))
}

// Move sends what is in a pipe, in which so many bytes are for certain.
func (s *Sender) Move(pipe, bytes int) error {
	return s.conn.out.Then(s.beginning(bytes), func() error { return s.conn.move(pipe, bytes) })
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
			n, err := unix.Splice(pipe, nil, int(fd), nil, bytes, unix.SPLICE_F_MOVE|unix.SPLICE_F_NONBLOCK)
			switch {
			case errors.Is(err, unix.EINTR):
			case errors.Is(err, unix.EAGAIN):
				return false
			case err != nil:
				moveErr = fmt.Errorf("move output to the channel: %w", err)
				return true
			case n == 0:
				moveErr = errShort
				return true
			}
			bytes -= int(max(n, 0))
		}
		return true
	})
	return errors.Join(err, moveErr)
}
