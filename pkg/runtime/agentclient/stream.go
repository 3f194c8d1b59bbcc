package agentclient

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/katadirect/katadirect/pkg/agentproto"
	"github.com/katadirect/katadirect/pkg/runtime/agentclient/express"
)

// chunk is how much is asked for, or sent, in one call: with 32 KiB the channel is half as fast, with more it is
// hardly faster.
const chunk = 256 << 10

// bulkChunk is how much is asked for while there is much to read: each answer has to wait for its turn on the guest's
// processor and on this host's, and larger ones wait less often.
const bulkChunk = 1 << 20

// errStream says that the guest answered a stream call with what no agent answers.
var errStream = errors.New("the agent broke the rules of a stream")

type readCall func(context.Context, *agentproto.ReadStreamRequest) (*agentproto.ReadStreamResponse, error)

// Stdout reads a process's standard output to its end. ctx ends the reading.
func (c *Client) Stdout(ctx context.Context, containerID, execID string) *Reader {
	return &Reader{
		ctx: ctx, client: c, method: "ReadStdout", call: inPlace(c.ReadStdout), container: containerID, exec: execID,
	}
}

// Stderr reads a process's standard error to its end. ctx ends the reading.
func (c *Client) Stderr(ctx context.Context, containerID, execID string) *Reader {
	return &Reader{
		ctx: ctx, client: c, method: "ReadStderr", call: inPlace(c.ReadStderr), container: containerID, exec: execID,
	}
}

// Reader is an output stream of a process. It is for one goroutine. It implements io.WriterTo, so io.Copy hands the
// messages' own buffers on.
type Reader struct {
	ctx             context.Context
	client          *Client
	method          string
	call            readCall
	container, exec string
	err             error
}

// Read implements io.Reader.
func (r *Reader) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	data, err := r.next(min(len(p), chunk))
	return copy(p, data), err
}

// WriteTo implements io.WriterTo. As soon as there is much to read, it goes past the ttrpc library, if w is an
// express.Sink and the agent can do it; otherwise the next piece is fetched while one is written.
func (r *Reader) WriteTo(w io.Writer) (written int64, err error) {
	for {
		data, err := r.next(chunk)
		if err == io.EOF {
			return written, nil
		}
		if err != nil {
			return written, err
		}
		n, err := w.Write(data)
		written += int64(n)
		if err != nil {
			return written, err
		}
		if len(data) >= much {
			n, err := r.writeMuch(w)
			return written + n, err
		}
	}
}

// much is what a guest has for the reader that writes faster than it is read.
const much = chunk / 2

// writeMuch writes what is left.
func (r *Reader) writeMuch(w io.Writer) (int64, error) {
	if sink, ok := w.(express.Sink); ok && r.client.Features().Output && len(r.container)+len(r.exec) < maxNames {
		return r.writeExpress(sink)
	}
	return r.writeAhead(w)
}

// writeAhead writes what is left, with one piece at a time on its way from the guest, and one more at hand.
func (r *Reader) writeAhead(w io.Writer) (written int64, err error) {
	pieces, stop := make(chan []byte), make(chan struct{})
	go func() {
		defer close(pieces)
		for {
			data, err := r.next(bulkChunk)
			if err != nil {
				return // it is kept in r.err
			}
			select {
			case pieces <- data:
			case <-stop:
				return
			}
		}
	}()
	for data := range pieces {
		n, err := w.Write(data)
		written += int64(n)
		if err != nil {
			close(stop)
			return written, err
		}
	}
	if r.err != io.EOF {
		err = r.err
	}
	return written, err
}

// next returns at most n bytes; no bytes from the agent is the end.
func (r *Reader) next(n int) ([]byte, error) {
	if r.err != nil {
		return nil, r.err
	}
	resp, err := r.call(r.ctx, &agentproto.ReadStreamRequest{
		ContainerId: r.container, ExecId: r.exec, Len: uint32(n)})
	switch data := resp.GetData(); {
	case err != nil:
		r.err = err
	case len(data) == 0:
		r.err = io.EOF
	case len(data) > n:
		r.err = fmt.Errorf("%w: %d bytes for the %d that were asked for", errStream, len(data), n)
	default:
		return data, nil
	}
	return nil, r.err
}

// Stdin writes to a process's standard input; closing it closes it in the guest. ctx ends the writing.
func (c *Client) Stdin(ctx context.Context, containerID, execID string) io.WriteCloser {
	return &writer{ctx: ctx, client: c, container: containerID, exec: execID}
}

type writer struct {
	ctx             context.Context
	client          *Client
	container, exec string
}

func (w *writer) Write(p []byte) (written int, err error) {
	for written < len(p) {
		part := p[written:min(len(p), written+chunk)]
		resp, err := w.client.WriteStdin(w.ctx, &agentproto.WriteStreamRequest{
			ContainerId: w.container, ExecId: w.exec, Data: part})
		if err != nil {
			return written, err
		}
		n := int(resp.GetLen())
		if n == 0 || n > len(part) {
			return written, fmt.Errorf("%w: took %d of %d bytes", errStream, n, len(part))
		}
		written += n
	}
	return written, nil
}

func (w *writer) Close() error {
	_, err := w.client.CloseStdin(w.ctx, &agentproto.CloseStdinRequest{ContainerId: w.container, ExecId: w.exec})
	return err
}
