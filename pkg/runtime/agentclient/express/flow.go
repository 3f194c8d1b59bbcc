package express

import (
	"cmp"
	"context"
	"io"
	"sync"

	"github.com/containerd/ttrpc"
	"google.golang.org/protobuf/proto"

	"github.com/katadirect/katadirect/internal/ttrpcframe"
	"github.com/katadirect/katadirect/pkg/agentproto"
)

// window is how much the guest may send before any of it has been taken, in bytes: that is what is kept here if suddenly
// nobody takes anything. When it may send no more than low it gets more, up to full.
type window struct{ full, low int }

var (
	// wide is for a sink that takes everything at once. Every message interrupts the guest, so there are few; and what is
	// left by then lasts it until the message is there.
	wide = window{full: 3 << 20, low: 1 << 20}
	// narrow is for a sink that is slower than the guest.
	narrow = window{full: 512 << 10, low: 256 << 10}
)

// Sink is where output goes.
type Sink interface {
	// Write waits until all has been taken.
	io.Writer
	// TryWrite passes on what there is room for, and returns how much that was. It must not wait: the whole channel would.
	TryWrite(p []byte) int
}

// Stream names one of a process's two streams of output.
type Stream struct {
	Container, Exec string
	Stderr          bool
}

// Copy passes a stream on from its next byte to its end. Errors are the sink's own, that of ctx, a gRPC status if the agent
// says so, ErrAnswer, and ttrpc.ErrClosed. A sink that takes nothing holds the stream up and nothing else: what had been
// sent by then is kept, and there is no more credit.
func (c *Conn) Copy(ctx context.Context, s Stream, to Sink) (written int64, err error) {
	f := &flow{conn: c, stream: s, to: to, woken: make(chan struct{}, 1)}
	f.id = c.register(f)
	for err == nil && ctx.Err() == nil {
		parked, credit := f.todo()
		switch {
		case parked != nil:
			n, failure := to.Write(*parked)
			f.wrote(n, parked)
			err = failure
		case credit > 0:
			err = f.give(credit)
		default:
			err = f.wait(ctx, c.hungUp)
		}
	}
	if f.end() {
		_ = c.send(ttrpcframe.Head(0, f.id, ttrpcframe.TypeData, ttrpcframe.FlagClosed|ttrpcframe.FlagNoData))
	}
	c.forget(f.id)
	if err = cmp.Or(err, ctx.Err()); err == io.EOF {
		err = nil
	}
	return f.written, err
}

// flow is a stream that is being passed on. The channel's reading goroutine writes as much of it as it can without
// waiting. What is left is parked, and written by the goroutine that has called Copy.
type flow struct {
	conn   *Conn
	stream Stream
	id     uint32
	to     Sink
	opened bool          // of Copy
	woken  chan struct{} // holds one if there may be something to do

	mu      sync.Mutex // guards what follows
	credit  int        // what the guest may still send, in bytes
	parked  []*[]byte
	writing bool // something that was parked is being written
	slow    bool // the sink had no room for all of what came last
	written int64
	err     error // why nothing more comes; io.EOF is the stream's end
	over    bool  // the guest has ended it
	ended   bool  // Copy has returned
}

// todo is what Copy has to do next: write what was parked, or give more credit, or, if it is neither, wait.
func (f *flow) todo() (parked *[]byte, credit int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.parked) > 0 {
		parked, f.parked = f.parked[0], f.parked[1:]
		f.writing = true
		return parked, 0
	}
	window := wide
	if f.slow {
		window = narrow
	}
	if f.err == nil && f.credit <= window.low {
		credit = window.full - f.credit
		f.credit = window.full
	}
	return nil, credit
}

// give opens the stream with its first credit, and then gives it more.
func (f *flow) give(credit int) error {
	if f.opened {
		message, err := proto.Marshal(&agentproto.OutputRequest{Credit: uint32(credit)})
		if err != nil {
			return err
		}
		return f.conn.send(append(ttrpcframe.Head(len(message), f.id, ttrpcframe.TypeData, 0), message...))
	}
	f.opened = true
	payload, err := proto.Marshal(&agentproto.OutputRequest{
		Credit: uint32(credit), ContainerId: f.stream.Container, ExecId: f.stream.Exec, Stderr: f.stream.Stderr})
	if err != nil {
		return err
	}
	message, err := proto.Marshal(&ttrpc.Request{Service: "katadirect.output.v1.Output", Method: "Stream", Payload: payload})
	if err != nil {
		return err
	}
	return f.conn.send(append(ttrpcframe.Head(len(message), f.id, ttrpcframe.TypeRequest, ttrpcframe.FlagOpen), message...))
}

// wrote notes that what was parked has been written.
func (f *flow) wrote(n int, parked *[]byte) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.written += int64(n)
	f.writing = false
	lots.Put(parked)
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

// end sees to it that the sink is not touched any more, and says whether the guest does not know yet.
func (f *flow) end() (tell bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.ended = true
	return f.opened && !f.over
}
