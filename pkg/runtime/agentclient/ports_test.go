package agentclient

import (
	"bytes"
	"context"
	"errors"
	"io"
	"testing"

	"github.com/containerd/ttrpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/katadirect/katadirect/pkg/agentproto"
)

// guestPorts is an agent's service with one server, on port 80.
type guestPorts struct {
	answers  [][]byte
	received []byte
	ended    bool
	closed   int
}

func (g *guestPorts) Dial(_ context.Context, r *agentproto.DialPortRequest) (*agentproto.DialPortResponse, error) {
	if r.GetPort() != 80 {
		return nil, status.Error(codes.Unavailable, "nobody listens there")
	}
	return &agentproto.DialPortResponse{Id: 5}, nil
}

func (g *guestPorts) Receive(_ context.Context, r *agentproto.ReceivePortRequest) (*agentproto.ReceivePortResponse, error) {
	if r.GetId() != 5 || len(g.answers) == 0 {
		return &agentproto.ReceivePortResponse{}, nil
	}
	next := g.answers[0]
	g.answers = g.answers[1:]
	return &agentproto.ReceivePortResponse{Data: next}, nil
}

func (g *guestPorts) Send(_ context.Context, r *agentproto.SendPortRequest) (*agentproto.PortDone, error) {
	g.received, g.ended = append(g.received, r.GetData()...), g.ended || r.GetClose()
	return &agentproto.PortDone{}, nil
}

func (g *guestPorts) Close(context.Context, *agentproto.ClosePortRequest) (*agentproto.PortDone, error) {
	g.closed++
	return &agentproto.PortDone{}, nil
}

func (g *guestPorts) client(t *testing.T) *Client {
	t.Helper()
	here, guest := pair(t)
	server, err := ttrpc.NewServer()
	if err != nil {
		t.Fatal(err)
	}
	agentproto.RegisterPortsService(server, g)
	listener := &oneConn{conn: guest, closed: make(chan struct{})}
	go func() { _ = server.Serve(context.Background(), listener) }()
	t.Cleanup(func() { _ = server.Close() })
	c := New(here, Options{Log: discard()})
	t.Cleanup(func() { _ = c.Close() })
	return c
}

func TestAPortsDataIsCarriedWhole(t *testing.T) {
	g := &guestPorts{answers: [][]byte{bytes.Repeat([]byte("a"), 500), []byte("b")}}
	ctx, cancel := context.WithCancel(t.Context())
	p, err := g.client(t).DialPort(ctx, 80)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(p); err != nil || len(got) != 501 {
		t.Errorf("%d bytes, %v", len(got), err)
	}
	sent := bytes.Repeat([]byte("s"), 2*portChunk+1)
	if n, err := p.Write(sent); err != nil || n != len(sent) || !bytes.Equal(g.received, sent) || g.ended {
		t.Errorf("%d of %d bytes, %d received, %v", n, len(sent), len(g.received), err)
	}
	if err := p.CloseWrite(); err != nil || !g.ended {
		t.Errorf("%v, ended %v", err, g.ended)
	}
	cancel()
	if err := p.Close(); err != nil || g.closed != 1 {
		t.Errorf("after the end of its context: %v, closed %d times", err, g.closed)
	}
}

func TestAPortThatLiesIsNotBelieved(t *testing.T) {
	g := &guestPorts{answers: [][]byte{[]byte("abcdef")}}
	c := g.client(t)
	p, err := c.DialPort(t.Context(), 80)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := p.Read(make([]byte, 3)); !errors.Is(err, errStream) {
		t.Errorf("more than was asked for: %v", err)
	}
	if _, err := c.DialPort(t.Context(), 81); !IsCode(err, codes.Unavailable) {
		t.Errorf("where nobody listens: %v", err)
	}
}
