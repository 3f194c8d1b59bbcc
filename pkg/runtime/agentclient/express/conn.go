// Package express takes a container's output off the agent's channel past the ttrpc library.
//
// The library reads an answer into a new piece of memory, unpacks it into another, and its caller then waits for whoever
// reads the fifo: for much output that is two copies and two pieces of garbage for every byte, and a channel that stands
// still meanwhile. Express stands between the channel and the library. It calls katadirect.output.v1.Output itself, with
// ids of its own, and writes what the guest sends straight from its one buffer to where it is to go. The guest is not
// asked for every piece: it has credit, and gets more when what it has sent has been taken.
//
// The agent must not have its library look at the ids, which it wants to grow: one that says katadirect.output does not.
// The guest is not trusted: what it sends costs this process one buffer, and what it had credit for.
package express

import (
	"bufio"
	"encoding/binary"
	"net"
	"sync"

	"github.com/containerd/ttrpc"

	"github.com/katadirect/katadirect/internal/ttrpcframe"
)

// firstID is the first of the ids that express has for itself; they are odd, as all of clients are. The library begins
// with 1.
const firstID = 1<<31 + 1

// bufferSize is what is taken off the channel at once, in bytes: somewhat less than a socket holds.
const bufferSize = 128 << 10

// Conn is the channel to the agent. To the library it is the whole of it.
type Conn struct {
	net.Conn

	// Of the library's reading goroutine.
	in   *bufio.Reader
	pass int // how much of a frame is left for the library to read, in bytes

	out *ttrpcframe.Turns

	mu     sync.Mutex
	flows  map[uint32]*flow // guarded by mu; by their ids
	nextID uint32           // guarded by mu
	hangUp sync.Once
	hungUp chan struct{}
}

// Wrap puts express before the library on conn.
func Wrap(conn net.Conn) *Conn {
	c := &Conn{
		Conn: conn, in: bufio.NewReaderSize(conn, bufferSize),
		flows: map[uint32]*flow{}, nextID: firstID, hungUp: make(chan struct{}),
	}
	c.out = ttrpcframe.NewTurns(conn, func() { _ = c.Close() })
	return c
}

// Read gives the library everything but the answers to what it has not asked for.
func (c *Conn) Read(p []byte) (int, error) {
	for c.pass == 0 {
		if err := c.next(); err != nil {
			c.lost()
			return 0, err
		}
	}
	n, err := c.in.Read(p[:min(len(p), c.pass)])
	c.pass -= n
	if err != nil {
		c.lost()
	}
	return n, err
}

// next looks at the next frame, and takes it if it is one of express's own.
func (c *Conn) next() error {
	head, err := c.in.Peek(ttrpcframe.HeadSize)
	if err != nil {
		return err
	}
	length, id := int(binary.BigEndian.Uint32(head)), binary.BigEndian.Uint32(head[4:])
	kind, flags := head[8], head[9]
	if id < firstID {
		c.pass = ttrpcframe.HeadSize + length
		return nil
	}
	_, _ = c.in.Discard(ttrpcframe.HeadSize)
	m := &message{in: c.in, left: length}
	// Nobody waits any more for what comes of a stream that has ended.
	if f := c.flow(id); f != nil {
		if err := f.receive(kind, flags, m); err != nil {
			return err
		}
	}
	return m.skip()
}

func (c *Conn) flow(id uint32) *flow {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.flows[id]
}

// register finds an id for a stream.
func (c *Conn) register(f *flow) uint32 {
	c.mu.Lock()
	defer c.mu.Unlock()
	for c.flows[c.nextID] != nil {
		c.nextID = max(c.nextID+2, firstID) // after the last comes the first
	}
	id := c.nextID
	c.nextID = max(c.nextID+2, firstID)
	c.flows[id] = f
	return id
}

func (c *Conn) forget(id uint32) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.flows, id)
}

// send writes a frame of express's own.
func (c *Conn) send(whole []byte) error {
	if c.out.Whole(whole) != nil {
		return ttrpc.ErrClosed
	}
	return nil
}

// Write writes for the library.
func (c *Conn) Write(p []byte) (int, error) { return c.out.Write(p) }

// Close ends what waits for output.
func (c *Conn) Close() error {
	c.lost()
	return c.Conn.Close()
}

func (c *Conn) lost() { c.hangUp.Do(func() { close(c.hungUp) }) }
