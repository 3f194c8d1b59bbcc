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

// guestConsole is an agent's debug console with one program, number 5.
type guestConsole struct {
	output [][]byte
	typed  []byte
	ended  bool // its input
	status int32
	fail   error
	lies   bool // sends more than was asked for
}

func (g *guestConsole) Open(context.Context, *agentproto.OpenConsoleRequest) (*agentproto.OpenConsoleResponse, error) {
	return &agentproto.OpenConsoleResponse{Id: 5}, g.fail
}

func (g *guestConsole) Read(_ context.Context, r *agentproto.ReadConsoleRequest) (*agentproto.ReadConsoleResponse, error) {
	if r.GetStderr() || r.GetId() != 5 || len(g.output) == 0 {
		return &agentproto.ReadConsoleResponse{}, nil
	}
	next := g.output[0]
	if n := int(r.GetLen()); len(next) > n && !g.lies {
		g.output[0] = next[n:]
		return &agentproto.ReadConsoleResponse{Data: next[:n]}, nil
	}
	g.output = g.output[1:]
	return &agentproto.ReadConsoleResponse{Data: next}, nil
}

func (g *guestConsole) Write(_ context.Context, r *agentproto.WriteConsoleRequest) (*agentproto.ConsoleDone, error) {
	g.typed, g.ended = append(g.typed, r.GetData()...), g.ended || r.GetClose()
	return &agentproto.ConsoleDone{}, nil
}

func (g *guestConsole) Resize(context.Context, *agentproto.ResizeConsoleRequest) (*agentproto.ConsoleDone, error) {
	return &agentproto.ConsoleDone{}, nil
}

func (g *guestConsole) Wait(context.Context, *agentproto.WaitConsoleRequest) (*agentproto.WaitConsoleResponse, error) {
	return &agentproto.WaitConsoleResponse{Status: g.status}, nil
}

func (g *guestConsole) Close(context.Context, *agentproto.CloseConsoleRequest) (*agentproto.ConsoleDone, error) {
	return &agentproto.ConsoleDone{}, nil
}

// open opens the program of a guest.
func (g *guestConsole) open(t *testing.T, terminal bool) (*Console, error) {
	t.Helper()
	here, guest := pair(t)
	server, err := ttrpc.NewServer()
	if err != nil {
		t.Fatal(err)
	}
	agentproto.RegisterConsoleService(server, g)
	listener := &oneConn{conn: guest, closed: make(chan struct{})}
	go func() { _ = server.Serve(context.Background(), listener) }()
	t.Cleanup(func() { _ = server.Close() })
	c := New(here, Options{Log: discard()})
	t.Cleanup(func() { _ = c.Close() })
	return c.OpenConsole(t.Context(), &agentproto.OpenConsoleRequest{Terminal: terminal})
}

func TestAConsolesStreamsAreCarriedWhole(t *testing.T) {
	g := &guestConsole{output: [][]byte{bytes.Repeat([]byte("a"), 30_000), []byte("b")}, status: 7}
	c, err := g.open(t, false)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(c.Stdout()); err != nil || len(got) != 30_001 {
		t.Errorf("%d bytes, %v", len(got), err)
	}
	if got, err := io.ReadAll(c.Stderr()); err != nil || len(got) != 0 {
		t.Errorf("%d bytes, %v", len(got), err)
	}
	in := c.Stdin()
	typed := bytes.Repeat([]byte("t"), 2*chunk+1)
	if n, err := in.Write(typed); err != nil || n != len(typed) {
		t.Errorf("%d, %v", n, err)
	}
	if err := errors.Join(in.Close(), c.Resize(t.Context(), 1, 2)); err != nil || !g.ended || !bytes.Equal(g.typed, typed) {
		t.Errorf("%v; ended %v, %d bytes typed", err, g.ended, len(g.typed))
	}
	if status, err := c.Wait(t.Context()); err != nil || status != 7 {
		t.Errorf("status %d, %v", status, err)
	}
	if err := errors.Join(c.Close(t.Context()), c.Close(t.Context())); err != nil {
		t.Error(err)
	}
}

func TestAConsoleThatLiesIsNotBelieved(t *testing.T) {
	c, err := (&guestConsole{output: [][]byte{[]byte("abcdef")}, status: 1<<20 + 3, lies: true}).open(t, true)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Stdout().Read(make([]byte, 3)); !errors.Is(err, errStream) {
		t.Errorf("more than was asked for: %v", err)
	}
	if n, err := c.Stderr().Read(make([]byte, 3)); n != 0 || err != io.EOF {
		t.Errorf("a terminal's other stream: %d, %v", n, err)
	}
	if status, err := c.Wait(t.Context()); err != nil || status < 0 || status > 255 {
		t.Errorf("status %d, %v", status, err)
	}
	_, err = (&guestConsole{fail: status.Error(codes.InvalidArgument, "no such program")}).open(t, false)
	if !IsCode(err, codes.InvalidArgument) {
		t.Errorf("what cannot be started: %v", err)
	}
}
