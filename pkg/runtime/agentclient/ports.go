package agentclient

import (
	"context"
	"fmt"
	"io"
	"time"

	"github.com/katadirect/katadirect/pkg/agentproto"
)

const (
	// dialPortTimeout bounds the wait for a server in the guest to take a connection.
	dialPortTimeout = 15 * time.Second
	// portChunk is how much of a connection's data one call carries.
	portChunk = 64 << 10
)

// Port is a connection to a TCP port of the guest's loopback. ctx, given to DialPort, ends it.
type Port struct {
	ctx     context.Context
	service agentproto.PortsService
	id      uint64
}

// DialPort connects to a port of the guest as localhost.
func (c *Client) DialPort(ctx context.Context, port uint16) (*Port, error) {
	dialed, err := c.ports.Dial(ctx, &agentproto.DialPortRequest{Port: uint32(port)})
	if err != nil {
		return nil, err
	}
	return &Port{ctx, c.ports, dialed.GetId()}, nil
}

// Read implements io.Reader.
func (p *Port) Read(data []byte) (int, error) {
	if len(data) == 0 {
		return 0, nil
	}
	want := min(len(data), portChunk)
	r, err := p.service.Receive(p.ctx, &agentproto.ReceivePortRequest{Id: p.id, Len: uint32(want)})
	switch got := r.GetData(); {
	case err != nil:
		return 0, err
	case len(got) == 0:
		return 0, io.EOF
	case len(got) > want:
		return 0, fmt.Errorf("%w: %d bytes for the %d that were asked for", errStream, len(got), want)
	default:
		return copy(data, got), nil
	}
}

// Write implements io.Writer.
func (p *Port) Write(data []byte) (written int, err error) {
	for written < len(data) {
		part := data[written:min(len(data), written+portChunk)]
		if _, err := p.service.Send(p.ctx, &agentproto.SendPortRequest{Id: p.id, Data: part}); err != nil {
			return written, err
		}
		written += len(part)
	}
	return written, nil
}

// CloseWrite ends what the server gets.
func (p *Port) CloseWrite() error {
	_, err := p.service.Send(p.ctx, &agentproto.SendPortRequest{Id: p.id, Close: true})
	return err
}

// Close ends the connection, whether or not ctx has ended.
func (p *Port) Close() error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(p.ctx), dialPortTimeout)
	defer cancel()
	_, err := p.service.Close(ctx, &agentproto.ClosePortRequest{Id: p.id})
	return err
}
