package express

import (
	"cmp"
	"context"
	"encoding/binary"
	"io"
	"sync"
	"time"

	"github.com/containerd/ttrpc"
	"google.golang.org/protobuf/proto"

	"github.com/katadirect/katadirect/internal/ttrpcframe"
)

// ahead is how many requests of a stream are under way: while one is answered the next is there, so that the guest never
// waits for this side.
const ahead = 2

// Sink is where output goes.
type Sink interface {
	// Write waits until all has been taken.
	io.Writer
	// TryWrite passes on what there is room for, and returns how much that was. It must not wait: the whole channel would.
	TryWrite(p []byte) int
}

// Request is how a stream is asked for its next piece.
type Request struct {
	Service, Method string
	Payload         []byte
	// PieceBytes is what Payload asks for.
	PieceBytes int
	// Took, unless it is nil, is told how long each request took.
	Took func(time.Duration)
}

// Copy passes a stream on from its next byte to its end. Errors are the sink's own, that of ctx, a gRPC status if the agent
// says so, ErrAnswer, and ttrpc.ErrClosed. A sink that takes nothing holds the stream up and nothing else: what had been
// asked for is kept, and no more is asked for.
func (c *Conn) Copy(ctx context.Context, r Request, to Sink) (written int64, err error) {
	frame, err := r.frame()
	if err != nil {
		return 0, err
	}
	f := &flow{conn: c, request: r, to: to, woken: make(chan struct{}, 1)}
	for err == nil && ctx.Err() == nil {
		parked, ask := f.todo()
		switch {
		case parked != nil:
			n, failure := to.Write(*parked)
			f.wrote(n, parked)
			err = failure
		case ask:
			binary.BigEndian.PutUint32(frame[4:], f.asks(c.register(f)))
			err = c.send(frame)
		default:
			err = f.wait(ctx, c.hungUp)
		}
	}
	c.forget(f.end()...)
	if err = cmp.Or(err, ctx.Err()); err == io.EOF {
		err = nil
	}
	return f.written, err
}

// frame encodes the request, but for its id.
func (r Request) frame() ([]byte, error) {
	message, err := proto.Marshal(&ttrpc.Request{Service: r.Service, Method: r.Method, Payload: r.Payload})
	if err != nil {
		return nil, err
	}
	frame := make([]byte, ttrpcframe.HeadSize, ttrpcframe.HeadSize+len(message))
	binary.BigEndian.PutUint32(frame, uint32(len(message)))
	frame[8] = ttrpcframe.TypeRequest
	return append(frame, message...), nil
}

// flow is a stream that is being passed on. The channel's reading goroutine writes as much of the answers as it can
// without waiting. What is left is parked, and written by the goroutine that has called Copy.
type flow struct {
	conn    *Conn
	request Request
	to      Sink
	woken   chan struct{} // holds one if there may be something to do

	mu      sync.Mutex // guards what follows
	asked   []asked
	parked  []*[]byte
	writing bool // something that was parked is being written
	slow    bool // the sink had no room for all of the last answer
	written int64
	err     error // why nothing more comes; io.EOF is the stream's end
	ended   bool  // Copy has returned
}

type asked struct {
	id uint32
	at time.Time
}

// todo is what Copy has to do next: write what was parked, or ask for more, or, if it is neither, wait.
func (f *flow) todo() (parked *[]byte, ask bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.parked) > 0 {
		parked, f.parked = f.parked[0], f.parked[1:]
		f.writing = true
		return parked, false
	}
	limit := ahead
	if f.slow {
		limit = 1
	}
	return nil, f.err == nil && len(f.asked) < limit
}

// wrote notes that what was parked has been written.
func (f *flow) wrote(n int, parked *[]byte) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.written += int64(n)
	f.writing = false
	lots.Put(parked)
}

func (f *flow) asks(id uint32) uint32 {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.asked = append(f.asked, asked{id, time.Now()})
	return id
}

// wait returns nil when there may be something to do, and otherwise why there is nothing more. What came in before the
// connection's end counts.
func (f *flow) wait(ctx context.Context, hungUp <-chan struct{}) error {
	if err := f.outcome(); err != nil {
		return err
	}
	select {
	case <-f.woken:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	case <-hungUp:
	}
	select {
	case <-f.woken:
		return nil
	default:
		return cmp.Or(f.outcome(), ttrpc.ErrClosed)
	}
}

func (f *flow) outcome() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.parked) > 0 {
		return nil
	}
	return f.err
}

// end sees to it that the sink is not touched any more, and returns what had been asked for.
func (f *flow) end() (ids []uint32) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.ended = true
	for _, a := range f.asked {
		ids = append(ids, a.id)
	}
	return ids
}
