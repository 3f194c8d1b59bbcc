// Package express answers requests for much output with one copy in and one
// out.
//
// What a container writes is in a pipe, and has to get into a ttrpc answer on
// the host's channel. The ttrpc library would have it copied twice more for
// that, into new memory each time. Express stands between library and channel,
// picks out the requests that ask for much, and answers them itself: the pipe
// is read into a buffer that has room for the frame's head, and the buffer is
// written. On the wire that is ttrpc like any other, so whoever asks cannot
// tell the difference.
//
// Having the kernel move the pipe's pages into the channel costs the guest no
// less, for it handles them one by one, and the host a third more: they come
// out of the port one by one, and what is written to it 32 KiB at a time.
package express

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"os"
	"time"

	"github.com/containerd/ttrpc"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/katadirect/katadirect/internal/ttrpcframe"
)

// requestLimit is how long a request can be that is looked into, in bytes:
// those for output name a container and a process.
const requestLimit = 2 << 10

// Handler picks requests out. It returns nil for one that it leaves to the
// library.
type Handler func(req *ttrpc.Request) *Work

// Work is a request's.
type Work struct {
	// Queue is the line that the request waits in: what is in it is done and
	// answered one after the other, in the order of the requests.
	Queue string
	// Do is called once, in a goroutine of its own, with a context that ends
	// with the connection or the request's time.
	Do func(context.Context) Answer
}

// Wrap puts h before the library on conn.
func Wrap(conn net.Conn, h Handler) net.Conn {
	ctx, cancel := context.WithCancel(context.Background())
	return &express{
		Conn: conn, handler: h, in: bufio.NewReader(conn), ctx: ctx, cancel: cancel, queues: newQueues(),
		out: ttrpcframe.NewTurns(conn, func() { _ = conn.Close() }),
	}
}

type express struct {
	net.Conn
	handler Handler
	ctx     context.Context
	cancel  context.CancelFunc
	queues  *queues

	// Of the library's reading goroutine.
	in   *bufio.Reader
	pass int // how much of a frame is left for the library to read, in bytes

	out *ttrpcframe.Turns
}

// Read gives the library everything but the requests that the handler takes.
func (c *express) Read(p []byte) (int, error) {
	for c.pass == 0 {
		if err := c.next(); errors.Is(err, net.ErrClosed) || errors.Is(err, os.ErrClosed) {
			return 0, io.EOF // broken off by us; only with an end does the library let go of it
		} else if err != nil {
			return 0, err
		}
	}
	n, err := c.in.Read(p[:min(len(p), c.pass)])
	c.pass -= n
	return n, err
}

// next looks at the next frame.
func (c *express) next() error {
	head, err := c.in.Peek(ttrpcframe.HeadSize)
	if err != nil {
		return err
	}
	length := int(binary.BigEndian.Uint32(head))
	id, kind := binary.BigEndian.Uint32(head[4:]), head[8]
	if kind != ttrpcframe.TypeRequest || length > requestLimit || id%2 != 1 {
		c.pass = ttrpcframe.HeadSize + length
		return nil
	}
	whole, err := c.in.Peek(ttrpcframe.HeadSize + length)
	if err != nil {
		return err
	}
	if c.take(id, whole[ttrpcframe.HeadSize:]) {
		_, err = c.in.Discard(ttrpcframe.HeadSize + length)
		return err
	}
	c.pass = ttrpcframe.HeadSize + length
	return nil
}

// take says whether the request has been taken from the library.
func (c *express) take(id uint32, message []byte) bool {
	var req ttrpc.Request
	if err := proto.Unmarshal(message, &req); err != nil {
		return false // the library has an answer to that
	}
	work := c.handler(&req)
	if work == nil {
		return false
	}
	ctx, cancel := c.ctx, context.CancelFunc(func() {})
	if req.TimeoutNano > 0 {
		ctx, cancel = context.WithTimeout(c.ctx, time.Duration(req.TimeoutNano))
	}
	turn := c.queues.join(work.Queue)
	go func() {
		defer cancel()
		defer turn.leave()
		c.answer(ctx, id, turn, work)
	}()
	return true
}

// answer does the work when it is its turn, and sends what has come of it.
func (c *express) answer(ctx context.Context, id uint32, turn *turn, work *Work) {
	var answer Answer
	if err := turn.wait(ctx); err != nil {
		answer.Status = status.FromContextError(err)
	} else {
		answer = work.Do(ctx)
	}
	if answer.Close != nil {
		defer answer.Close()
	}
	if err := c.send(id, answer); err != nil {
		// Half a frame may have been written: nothing can follow it.
		_ = c.Conn.Close()
	}
}

// Write writes for the library.
func (c *express) Write(p []byte) (int, error) { return c.out.Write(p) }

// Close ends what waits for output.
func (c *express) Close() error {
	c.cancel()
	return c.Conn.Close()
}
