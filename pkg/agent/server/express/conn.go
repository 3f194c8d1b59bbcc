// Package express serves katadirect.output.v1.Output: it sends a process's
// output to the host without being asked for every piece, and touches each byte
// as seldom as can be.
//
// What a container writes is in a pipe, and has to get into frames on the
// host's channel. The ttrpc library would have it copied four times for that.
// Express stands between library and channel, keeps the service's streams
// itself, reads the pipe once into a frame, and writes that once. On the wire
// that is ttrpc like any other.
//
// It sends no more than the host has said there is room for, so a reader that
// stands still holds up its own process and nothing else. Frames of all streams
// and of the library take turns.
package express

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"time"

	"github.com/containerd/ttrpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/katadirect/katadirect/internal/ttrpcframe"
	"github.com/katadirect/katadirect/pkg/agentproto"
)

// service and method are what is taken from the library.
const (
	service = "katadirect.output.v1.Output"
	method  = "Stream"
)

// requestLimit is how long a request can be that is looked into, in bytes: it
// names a container and a process.
const requestLimit = 2 << 10

// Handler sends a stream, from its next byte to its end. It is called in a
// goroutine of its own, with a context that ends with the connection and when
// the host has closed the stream.
type Handler func(ctx context.Context, req *agentproto.OutputRequest, to *Sender) *status.Status

// Wrap puts h before the library on conn.
func Wrap(conn net.Conn, h Handler) net.Conn {
	ctx, cancel := context.WithCancel(context.Background())
	return &express{
		Conn: conn, handler: h, in: bufio.NewReader(conn), ctx: ctx, cancel: cancel, streams: map[uint32]*Sender{},
		out: ttrpcframe.NewTurns(conn, func() { _ = conn.Close() }),
	}
}

type express struct {
	net.Conn
	handler Handler
	ctx     context.Context
	cancel  context.CancelFunc

	// Of the library's reading goroutine.
	in   *bufio.Reader
	pass int // how much of a frame is left for the library to read, in bytes

	out *ttrpcframe.Turns

	mu      sync.Mutex
	streams map[uint32]*Sender // guarded by mu
}

// Read gives the library everything but what is express's.
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
	id, kind, flags := binary.BigEndian.Uint32(head[4:]), head[8], head[9]
	if length > requestLimit {
		c.pass = ttrpcframe.HeadSize + length
		return nil
	}
	whole, err := c.in.Peek(ttrpcframe.HeadSize + length)
	if err != nil {
		return err
	}
	if !c.take(id, kind, flags, whole[ttrpcframe.HeadSize:]) {
		c.pass = ttrpcframe.HeadSize + length
		return nil
	}
	_, err = c.in.Discard(ttrpcframe.HeadSize + length)
	return err
}

// take says whether a frame has been taken from the library.
func (c *express) take(id uint32, kind, flags byte, message []byte) bool {
	switch kind {
	case ttrpcframe.TypeRequest:
		var req ttrpc.Request
		if err := proto.Unmarshal(message, &req); err != nil || req.GetService() != service || req.GetMethod() != method {
			return false // the library has an answer to that
		}
		c.open(id, &req)
		return true
	case ttrpcframe.TypeData:
		// The library has no streams. One that is not known here has ended.
		c.mu.Lock()
		s := c.streams[id]
		c.mu.Unlock()
		if s != nil {
			s.said(flags, message)
		}
		return true
	}
	return false
}

// open begins a stream. What it is about is said by the request, or by the
// first message after it.
func (c *express) open(id uint32, req *ttrpc.Request) {
	ctx, cancel := c.ctx, context.CancelFunc(nil)
	if req.TimeoutNano > 0 {
		ctx, cancel = context.WithTimeout(ctx, time.Duration(req.TimeoutNano))
	} else {
		ctx, cancel = context.WithCancel(ctx)
	}
	s := &Sender{conn: c, id: id, end: cancel, first: make(chan *agentproto.OutputRequest, 1), woken: make(chan struct{}, 1)}
	c.mu.Lock()
	c.streams[id] = s
	c.mu.Unlock()
	if len(req.GetPayload()) > 0 {
		s.said(0, req.GetPayload())
	}
	go func() {
		defer cancel()
		c.finish(s, c.serve(ctx, s))
	}()
}

func (c *express) serve(ctx context.Context, s *Sender) *status.Status {
	select {
	case req := <-s.first:
		return c.handler(ctx, req, s)
	case <-ctx.Done():
		return status.FromContextError(ctx.Err())
	}
}

// finish ends a stream, with nothing but its end if it went well.
func (c *express) finish(s *Sender, outcome *status.Status) {
	c.mu.Lock()
	delete(c.streams, s.id)
	c.mu.Unlock()
	if outcome.Code() == codes.OK {
		_ = c.out.Whole(ttrpcframe.Head(0, s.id, ttrpcframe.TypeData, ttrpcframe.FlagClosed|ttrpcframe.FlagNoData))
		return
	}
	message, err := proto.Marshal(&ttrpc.Response{Status: outcome.Proto()})
	if err == nil {
		_ = c.out.Whole(append(ttrpcframe.Head(len(message), s.id, ttrpcframe.TypeResponse, 0), message...))
	}
}

// Write writes for the library.
func (c *express) Write(p []byte) (int, error) { return c.out.Write(p) }

// Close ends what waits for output.
func (c *express) Close() error {
	c.cancel()
	return c.Conn.Close()
}
