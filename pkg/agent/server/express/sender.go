package express

import (
	"context"
	"encoding/binary"
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
	for ctx.Err() == nil && s.mayTake() == 0 {
		select {
		case <-s.woken:
		case <-ctx.Done():
		}
	}
	return ctx.Err()
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

// room is what a frame's beginning takes at most, in bytes.
const room = ttrpcframe.HeadSize + 1 + binary.MaxVarintLen64

// taker reads each piece to where its frame's data is, so that one read and one
// write are all that is done with a byte.
//
// The kernel could move a pipe's pages to the channel instead, and must not: a
// container can put pages into its pipe that hold nothing (a write from where
// there is no memory does), and the driver of the virtio port counts pages that
// it then does not send, and writes past the end of its list.
type taker struct {
	*Sender
	frame []byte // the beginning ends at room
}

// Taker sends pieces of at most so many bytes.
func (s *Sender) Taker(pieceBytes int) process.Taker {
	return &taker{s, make([]byte, room+pieceBytes)}
}

// Take implements process.Taker.
func (t *taker) Take(fd int) (int, error) {
	piece := t.frame[room:]
	return process.ReadOnce(fd, piece[:min(len(piece), t.mayTake())])
}

// Taken implements process.Taker.
func (t *taker) Taken(bytes int) error {
	t.spend(bytes)
	beginning := t.beginning(bytes)
	from := room - len(beginning)
	copy(t.frame[from:], beginning)
	return t.conn.out.Whole(t.frame[from : room+bytes])
}
