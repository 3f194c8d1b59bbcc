package agentclient

import (
	"context"
	"fmt"
	"io"

	"github.com/katadirect/katadirect/pkg/agentproto"
)

// Console is a program in the guest, outside of all containers. ctx, given to OpenConsole, ends its streams.
type Console struct {
	ctx      context.Context
	service  agentproto.ConsoleService
	id       uint64
	terminal bool
}

// OpenConsole starts a program. Close ends it.
func (c *Client) OpenConsole(ctx context.Context, r *agentproto.OpenConsoleRequest) (*Console, error) {
	opened, err := c.console.Open(ctx, r)
	if err != nil {
		return nil, err
	}
	return &Console{ctx: ctx, service: c.console, id: opened.GetId(), terminal: r.GetTerminal()}, nil
}

// Stdout reads what the program prints to its end.
func (c *Console) Stdout() io.Reader { return &consoleReader{console: c} }

// Stderr is Stdout for the other stream; a terminal has only one.
func (c *Console) Stderr() io.Reader {
	if c.terminal {
		return eof{}
	}
	return &consoleReader{console: c, stderr: true}
}

type eof struct{}

func (eof) Read([]byte) (int, error) { return 0, io.EOF }

type consoleReader struct {
	console *Console
	stderr  bool
}

// Read implements io.Reader.
func (r *consoleReader) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	want := min(len(p), chunk)
	resp, err := r.console.service.Read(r.console.ctx, &agentproto.ReadConsoleRequest{
		Id: r.console.id, Stderr: r.stderr, Len: uint32(want)})
	switch data := resp.GetData(); {
	case err != nil:
		return 0, err
	case len(data) == 0:
		return 0, io.EOF
	case len(data) > want:
		return 0, fmt.Errorf("%w: %d bytes for the %d that were asked for", errStream, len(data), want)
	default:
		return copy(p, data), nil
	}
}

// Stdin writes to the program; closing it is the end of its input.
func (c *Console) Stdin() io.WriteCloser { return consoleWriter{c} }

type consoleWriter struct{ console *Console }

// Write implements io.Writer.
func (w consoleWriter) Write(p []byte) (written int, err error) {
	for written < len(p) {
		part := p[written:min(len(p), written+chunk)]
		_, err := w.console.service.Write(w.console.ctx, &agentproto.WriteConsoleRequest{Id: w.console.id, Data: part})
		if err != nil {
			return written, err
		}
		written += len(part)
	}
	return written, nil
}

// Close implements io.Closer.
func (w consoleWriter) Close() error {
	_, err := w.console.service.Write(w.console.ctx, &agentproto.WriteConsoleRequest{Id: w.console.id, Close: true})
	return err
}

// Resize gives the program's terminal another size.
func (c *Console) Resize(ctx context.Context, rows, columns uint16) error {
	_, err := c.service.Resize(ctx, &agentproto.ResizeConsoleRequest{
		Id: c.id, Rows: uint32(rows), Columns: uint32(columns)})
	return err
}

// Wait returns the program's exit status.
func (c *Console) Wait(ctx context.Context) (int, error) {
	r, err := c.service.Wait(ctx, &agentproto.WaitConsoleRequest{Id: c.id})
	return int(r.GetStatus()) & 0xff, err
}

// Close ends the program. It may be called again.
func (c *Console) Close(ctx context.Context) error {
	_, err := c.service.Close(ctx, &agentproto.CloseConsoleRequest{Id: c.id})
	return err
}
