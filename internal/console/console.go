// Package console is the host's side of the debug console: what the operator's tool and the shim say to each other
// on the management socket. The tool asks for PathConsole with an upgrade of the connection, and then both send frames.
//
// cmd/katadirect calls Dial, pkg/runtime/management serves. What runs in the guest, and what a terminal on the host is,
// must never move in here.
package console

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"
)

// Path is where a console is asked for, and Protocol what the connection then speaks.
const (
	Path     = "/debug-console"
	Protocol = "katadirect-console/1"
)

// Request says what to run in the guest.
type Request struct {
	// Args is the program and its arguments; none is a shell.
	Args []string `json:"args,omitempty"`
	// Env is further environment, such as TERM=xterm.
	Env []string `json:"env,omitempty"`
	// Terminal, of Size, is what it gets instead of three pipes.
	Terminal bool `json:"terminal,omitempty"`
	Size     Size `json:"size,omitzero"`
}

// Size is a terminal's, in characters.
type Size struct {
	Rows    uint16 `json:"rows"`
	Columns uint16 `json:"columns"`
}

// Kind is what a frame holds.
type Kind byte

// Kinds of frame. The tool sends the first three, the shim the others, Exit or Failure as its last.
const (
	Stdin   Kind = iota + 1 // bytes; none is the end
	Resize                  // a Size as JSON
	Hangup                  // nothing; the program is to be killed
	Stdout                  // bytes
	Stderr                  // bytes
	Exit                    // the exit status as JSON
	Failure                 // why there is none, as text
)

// maxFrame is the largest frame in bytes.
const maxFrame = 256 << 10

// header is the kind and the length.
const headerBytes = 5

// Conn sends and receives frames. Several goroutines may send, one receives.
type Conn struct {
	conn net.Conn
	in   *bufio.Reader

	sending sync.Mutex
}

// NewConn makes a Conn of an upgraded connection, of which in may have read more than the upgrade.
func NewConn(conn net.Conn, in *bufio.Reader) *Conn { return &Conn{conn: conn, in: in} }

// Close ends the connection.
func (c *Conn) Close() error { return c.conn.Close() }

// Send sends data as frames of one kind, or one empty frame if there is none.
func (c *Conn) Send(kind Kind, data []byte) error {
	c.sending.Lock()
	defer c.sending.Unlock()
	for {
		part := data[:min(len(data), maxFrame)]
		data = data[len(part):]
		frame := append(make([]byte, 0, headerBytes+len(part)), byte(kind))
		frame = append(binary.BigEndian.AppendUint32(frame, uint32(len(part))), part...)
		if _, err := c.conn.Write(frame); err != nil {
			return err
		}
		if len(data) == 0 {
			return nil
		}
	}
}

// SendJSON sends a value.
func (c *Conn) SendJSON(kind Kind, value any) error {
	data, err := json.Marshal(value)
	if err != nil {
		return err
	}
	return c.Send(kind, data)
}

// Receive returns the next frame.
func (c *Conn) Receive() (Kind, []byte, error) {
	var header [headerBytes]byte
	if _, err := io.ReadFull(c.in, header[:]); err != nil {
		return 0, nil, err
	}
	length := binary.BigEndian.Uint32(header[1:])
	if length > maxFrame {
		return 0, nil, fmt.Errorf("debug console: a frame of %d bytes", length)
	}
	data := make([]byte, length)
	_, err := io.ReadFull(c.in, data)
	if errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	return Kind(header[0]), data, err
}

// Writer sends what is written to it as frames of one kind.
func (c *Conn) Writer(kind Kind) io.Writer { return writer{c, kind} }

type writer struct {
	conn *Conn
	kind Kind
}

func (w writer) Write(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil // an empty frame means the end
	}
	if err := w.conn.Send(w.kind, p); err != nil {
		return 0, err
	}
	return len(p), nil
}

// RefusedError is the shim's answer that there is no console.
type RefusedError struct {
	Code    int // HTTP status
	Message string
}

func (e *RefusedError) Error() string { return e.Message }

// dialTimeout bounds the wait for the program to be started.
const dialTimeout = time.Minute

// Dial asks the shim behind a management socket for a console.
func Dial(ctx context.Context, socket string, r Request) (_ *Conn, err error) {
	conn, err := new(net.Dialer).DialContext(ctx, "unix", socket)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			conn.Close()
		}
	}()
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	if err := conn.SetDeadline(time.Now().Add(dialTimeout)); err != nil {
		return nil, err
	}
	body, err := json.Marshal(r)
	if err != nil {
		return nil, err
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://shim"+Path, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	request.Header.Set("Connection", "Upgrade")
	request.Header.Set("Upgrade", Protocol)
	if err := request.Write(conn); err != nil {
		return nil, err
	}
	in := bufio.NewReader(conn)
	response, err := http.ReadResponse(in, request)
	if err != nil {
		return nil, err
	}
	if response.StatusCode != http.StatusSwitchingProtocols {
		text, _ := io.ReadAll(io.LimitReader(response.Body, 4<<10))
		return nil, &RefusedError{response.StatusCode, strings.TrimSpace(string(text))}
	}
	if !stop() {
		return nil, context.Cause(ctx)
	}
	return NewConn(conn, in), conn.SetDeadline(time.Time{})
}
