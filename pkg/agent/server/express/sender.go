package express

import (
	"context"
	"io"
	"sync"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"github.com/katadirect/katadirect/internal/ttrpcframe"
	"github.com/katadirect/katadirect/pkg/agent/process"
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

// Ready waits until something may be sent.
func (s *Sender) Ready(ctx context.Context) error {
	for s.mayTake() == 0 {
		select {
		case <-s.woken:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

// mayTake is how much may be sent, in bytes.
func (s *Sender) mayTake() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.credit
}

func (s *Sender) spend(bytes int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.credit -= bytes
}

// dataField is the number of OutputData's data.
const dataField = 1

// beginning is what comes before so many bytes of data.
func (s *Sender) beginning(bytes int) []byte {
	field := protowire.AppendVarint(protowire.AppendTag(nil, dataField, protowire.BytesType), uint64(bytes))
	return append(ttrpcframe.Head(len(field)+bytes, s.id, ttrpcframe.TypeData, 0), field...)
}

// Taker is a process.Taker that sends what it takes.
type Taker interface {
	process.Taker
	io.Closer
}

// copies takes by copying.
type copies struct {
	*Sender
	piece []byte
}

// Copies sends pieces of at most so many bytes, of anything that can be read.
func (s *Sender) Copies(pieceBytes int) (Taker, error) {
	return &copies{s, make([]byte, pieceBytes)}, nil
}

// Take implements process.Taker.
func (c *copies) Take(fd int) (int, error) {
	return process.ReadOnce(fd, c.piece[:min(len(c.piece), c.mayTake())])
}

// Taken implements process.Taker.
func (c *copies) Taken(bytes int) error {
	c.spend(bytes)
	return c.conn.out.Whole(append(c.beginning(bytes), c.piece[:bytes]...))
}

// Close implements Taker.
func (c *copies) Close() error { return nil }
