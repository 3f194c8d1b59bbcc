// Package qmp speaks the QEMU Machine Protocol: JSON commands, their replies, and events, one per line, on a
// stream socket. pkg/runtime/qemu uses it to drive its machine.
//
//	c, err := qmp.NewClient(ctx, conn)                 // greeting and capabilities are done
//	deleted := c.Subscribe(1, qmp.Named("DEVICE_DELETED"))
//	defer deleted.Close()
//	err = c.Run(ctx, "device_del", map[string]any{"id": id}, nil)
//	event, err := deleted.Next(ctx)
//
// It knows the protocol and no command: what a disk or a bridge is must never move in here.
//
// One goroutine reads the socket from NewClient until the client ends; Close waits for it. Nothing that a caller
// does or fails to do holds that goroutine up, so a reply is never late because of an event nobody collects.
package qmp

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// ErrClosed is returned to everybody who waits for something when the client ends, joined with the reason.
var ErrClosed = errors.New("connection to QEMU is closed")

// Reasons joined to ErrClosed.
var (
	errByCaller = errors.New("closed by this side")
	errHungUp   = errors.New("QEMU has hung up")
)

// writeTimeout bounds the sending of one command. QEMU reads its socket whenever its main loop runs, and a command
// fits the socket's buffer many times over: who hits this talks to a QEMU that has been stuck for long.
const writeTimeout = 10 * time.Second

// Client is one QMP session. Its methods may be called from several goroutines at once.
type Client struct {
	conn net.Conn

	// sending serialises whole lines; fds serialises commands that carry a descriptor up to their reply,
	// because QEMU keeps only the last descriptor it received.
	sending, fds sync.Mutex

	mu      sync.Mutex // guards what follows
	lastID  uint64
	waiting map[uint64]chan reply // each of capacity 1
	subs    map[*Subscription]struct{}
	err     error // why the client ended; set once, before done is closed

	done   chan struct{} // closed when the client has ended
	reader sync.WaitGroup
}

// NewClient takes conn over, reads QEMU's greeting and negotiates capabilities. It closes conn on error. ctx bounds
// the negotiation only.
func NewClient(ctx context.Context, conn net.Conn) (*Client, error) {
	c := &Client{
		conn:    conn,
		waiting: map[uint64]chan reply{},
		subs:    map[*Subscription]struct{}{},
		done:    make(chan struct{}),
	}
	in := bufio.NewReaderSize(conn, 64<<10)
	if err := c.greet(ctx, in); err != nil {
		_ = conn.Close()
		return nil, fmt.Errorf("QMP greeting: %w", err)
	}
	c.reader.Go(func() { c.read(in) })
	if err := c.Run(ctx, "qmp_capabilities", nil, nil); err != nil {
		return nil, errors.Join(err, c.Close())
	}
	return c, nil
}

// greet reads the greeting, or fails when ctx ends.
func (c *Client) greet(ctx context.Context, in *bufio.Reader) error {
	stop := context.AfterFunc(ctx, func() { _ = c.conn.SetReadDeadline(time.Unix(1, 0)) })
	line, err := readLine(in)
	if !stop() {
		return context.Cause(ctx)
	}
	if err != nil {
		return reasonOf(err)
	}
	m, err := decode(line)
	if err != nil {
		return err
	}
	if m.greeting == nil {
		return errors.New("the peer is no QEMU: its first line is not a greeting")
	}
	return nil
}

// Run executes command with args (anything that encodes as a JSON object, nil for none) and decodes what it returns
// into result, if that is not nil. QEMU's refusal is a *CommandError. When ctx ends first, the command may still be
// carried out: QEMU cannot take one back.
func (c *Client) Run(ctx context.Context, command string, args, result any) error {
	return c.run(ctx, command, args, result, nil)
}

// RunWithFile is Run with a descriptor passed along, for commands like add-fd and getfd. file may be closed when it
// returns. The connection must be a unix socket.
func (c *Client) RunWithFile(ctx context.Context, file *os.File, command string, args, result any) error {
	c.fds.Lock()
	defer c.fds.Unlock()
	return c.run(ctx, command, args, result, file)
}

func (c *Client) run(ctx context.Context, command string, args, result any, file *os.File) error {
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("%s: %w", command, context.Cause(ctx))
	}
	id, replies, err := c.expectReply()
	if err != nil {
		return fmt.Errorf("%s: %w", command, err)
	}
	defer c.forget(id)

	line, err := encode(id, command, args)
	if err != nil {
		return fmt.Errorf("%s: %w", command, err)
	}
	if err := c.send(line, file); err != nil {
		return fmt.Errorf("%s: %w", command, err)
	}
	select {
	case r := <-replies:
		return r.into(command, result)
	case <-ctx.Done():
		return fmt.Errorf("%s: %w", command, context.Cause(ctx))
	case <-c.done:
		// The reply may have come just before the end: for quit it does.
		select {
		case r := <-replies:
			return r.into(command, result)
		default:
			return fmt.Errorf("%s: %w", command, c.err)
		}
	}
}

func (c *Client) expectReply() (uint64, chan reply, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err != nil {
		return 0, nil, c.err
	}
	c.lastID++
	ch := make(chan reply, 1)
	c.waiting[c.lastID] = ch
	return c.lastID, ch, nil
}

func (c *Client) forget(id uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.waiting, id)
}

// send writes one line. A line sent in part would make nonsense of all that follow, so any failure ends the client.
func (c *Client) send(line []byte, file *os.File) error {
	c.sending.Lock()
	defer c.sending.Unlock()
	err := c.conn.SetWriteDeadline(time.Now().Add(writeTimeout))
	if err == nil && file == nil {
		_, err = c.conn.Write(line)
	} else if err == nil {
		err = c.sendFile(line, file)
	}
	if err != nil {
		c.end(reasonOf(err))
		return c.Err()
	}
	return nil
}

func (c *Client) sendFile(line []byte, file *os.File) error {
	conn, ok := c.conn.(*net.UnixConn)
	if !ok {
		return fmt.Errorf("a %T carries no descriptors", c.conn)
	}
	raw, err := file.SyscallConn()
	if err != nil {
		return err
	}
	var n int
	controlErr := raw.Control(func(fd uintptr) {
		n, _, err = conn.WriteMsgUnix(line, unix.UnixRights(int(fd)), nil)
	})
	if err = errors.Join(controlErr, err); err != nil {
		return err
	}
	_, err = conn.Write(line[n:])
	return err
}

// read delivers replies and events until the connection ends.
func (c *Client) read(in *bufio.Reader) {
	for {
		line, err := readLine(in)
		if err == nil {
			err = c.deliver(line)
		}
		if err != nil {
			c.end(reasonOf(err))
			return
		}
	}
}

// reasonOf translates the ways in which a peer's end shows on a unix socket: a reset means that it died with
// something of ours unread.
func reasonOf(err error) error {
	for _, hungUp := range []error{io.EOF, unix.ECONNRESET, unix.EPIPE} {
		if errors.Is(err, hungUp) {
			return errHungUp
		}
	}
	return err
}

func (c *Client) deliver(line []byte) error {
	m, err := decode(line)
	if err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case m.event != nil:
		for s := range c.subs {
			s.offer(*m.event)
		}
	case m.reply != nil:
		// A reply nobody waits for belongs to a caller whose context ended.
		if ch, ok := c.waiting[m.reply.id]; ok {
			delete(c.waiting, m.reply.id)
			ch <- *m.reply
		}
	}
	return nil
}

// end closes the connection and tells everybody who waits. Only the first reason counts.
func (c *Client) end(reason error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err != nil {
		return
	}
	c.err = fmt.Errorf("%w: %w", ErrClosed, reason)
	_ = c.conn.Close() // nothing is buffered on this side
	for s := range c.subs {
		close(s.events)
		delete(c.subs, s)
	}
	close(c.done)
}

// Close ends the session and returns when the reader has ended. It may be called more than once.
func (c *Client) Close() error {
	c.end(errByCaller)
	c.reader.Wait()
	return nil
}

// Done is closed when the session has ended for whatever reason.
func (c *Client) Done() <-chan struct{} { return c.done }

// Err is nil while the session lasts, and then why it ended; it wraps ErrClosed.
func (c *Client) Err() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.err
}

// into hands the reply to the caller of Run.
func (r reply) into(command string, result any) error {
	if r.failure != nil {
		return &CommandError{Command: command, Class: r.failure.Class, Description: r.failure.Description}
	}
	if result == nil {
		return nil
	}
	if err := json.Unmarshal(r.result, result); err != nil {
		return fmt.Errorf("%s: unexpected reply: %w", command, err)
	}
	return nil
}
