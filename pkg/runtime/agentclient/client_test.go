package agentclient

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/containerd/ttrpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/katadirect/katadirect/pkg/agentproto"
)

// agent is a small agent that behaves as a test tells it.
type agent struct {
	agentproto.Unimplemented
	health  agentproto.HealthCheckResponse_ServingStatus
	check   func(context.Context) error
	details *agentproto.AgentDetails
	fail    error
	block   chan struct{} // ReadStdout waits for it
	output  [][]byte
	reads   atomic.Int64
	stdin   []byte
	closed  bool
	take    uint32 // of what is written, at most so much a call; 0 says so in the answer
}

func (a *agent) Check(ctx context.Context, _ *agentproto.CheckRequest) (*agentproto.HealthCheckResponse, error) {
	if a.check != nil {
		return nil, a.check(ctx)
	}
	return &agentproto.HealthCheckResponse{Status: a.health}, nil
}

func (a *agent) Version(context.Context, *agentproto.CheckRequest) (*agentproto.VersionCheckResponse, error) {
	return &agentproto.VersionCheckResponse{}, nil
}

func (a *agent) GetGuestDetails(context.Context, *agentproto.GuestDetailsRequest) (*agentproto.GuestDetailsResponse, error) {
	return &agentproto.GuestDetailsResponse{AgentDetails: a.details}, a.fail
}

func (a *agent) ReadStdout(_ context.Context, r *agentproto.ReadStreamRequest) (*agentproto.ReadStreamResponse, error) {
	a.reads.Add(1)
	if a.block != nil {
		<-a.block
	}
	if len(a.output) == 0 {
		return &agentproto.ReadStreamResponse{}, nil
	}
	next := a.output[0]
	a.output = a.output[1:]
	return &agentproto.ReadStreamResponse{Data: next}, nil
}

func (a *agent) WriteStdin(_ context.Context, r *agentproto.WriteStreamRequest) (*agentproto.WriteStreamResponse, error) {
	n := min(a.take, uint32(len(r.GetData())))
	a.stdin = append(a.stdin, r.GetData()[:n]...)
	return &agentproto.WriteStreamResponse{Len: n}, nil
}

func (a *agent) CloseStdin(context.Context, *agentproto.CloseStdinRequest) (*agentproto.Empty, error) {
	a.closed = true
	return &agentproto.Empty{}, nil
}

func discard() *slog.Logger { return slog.New(slog.DiscardHandler) }

// pair is two ends of a unix socket, like the machine's.
func pair(t *testing.T) (here, guest net.Conn) {
	t.Helper()
	fds, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	var conns [2]net.Conn
	for i, fd := range fds {
		f := os.NewFile(uintptr(fd), "pair")
		if conns[i], err = net.FileConn(f); err != nil {
			t.Fatal(err)
		}
		_ = f.Close()
	}
	t.Cleanup(func() { _ = conns[0].Close(); _ = conns[1].Close() })
	return conns[0], conns[1]
}

// serve runs the agent on the guest's end.
func serve(t *testing.T, guest net.Conn, a *agent) {
	t.Helper()
	serveOn(t, guest, func(server *ttrpc.Server) {
		agentproto.RegisterAgentServiceService(server, a)
		agentproto.RegisterHealthService(server, a)
	})
}

func serveOn(t *testing.T, guest net.Conn, register func(*ttrpc.Server)) {
	t.Helper()
	server, err := ttrpc.NewServer()
	if err != nil {
		t.Fatal(err)
	}
	register(server)
	l := &oneConn{conn: guest, closed: make(chan struct{})}
	served := make(chan struct{})
	go func() { defer close(served); _ = server.Serve(context.Background(), l) }()
	t.Cleanup(func() { _ = server.Close(); <-served })
}

type oneConn struct {
	conn   net.Conn
	closed chan struct{}
}

func (l *oneConn) Accept() (net.Conn, error) {
	if c := l.conn; c != nil {
		l.conn = nil
		return c, nil
	}
	<-l.closed
	return nil, net.ErrClosed
}

func (l *oneConn) Close() error {
	select {
	case <-l.closed:
	default:
		close(l.closed)
	}
	return nil
}

func (l *oneConn) Addr() net.Addr { return &net.UnixAddr{} }

// connect returns a client of a.
func connect(t *testing.T, a *agent) *Client {
	t.Helper()
	here, guest := pair(t)
	serve(t, guest, a)
	c := New(here, Options{Log: discard()})
	t.Cleanup(func() { _ = c.Close(); <-c.Gone() })
	return c
}

func TestHelloLearnsWhatTheAgentCanDo(t *testing.T) {
	for _, tc := range []struct {
		name    string
		details *agentproto.AgentDetails
		want    Features
	}{
		{"ours", &agentproto.AgentDetails{Version: "1.0", SupportsSeccomp: true, ExtraFeatures: []string{
			"katadirect.resize-volume", "katadirect.format-if-blank", "katadirect.grow-on-mount"}},
			Features{Version: "1.0", Seccomp: true, ResizeVolume: true, FormatIfBlank: true, GrowOnMount: true}},
		{"Kata's", &agentproto.AgentDetails{Version: "4.1.0", ExtraFeatures: []string{"guest-pull"}}, Features{Version: "4.1.0"}},
		{"one that tells nothing", nil, Features{}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			c := connect(t, &agent{health: agentproto.HealthCheckResponse_SERVING, details: tc.details})
			got, err := c.Hello(t.Context())
			if err != nil || got != tc.want || c.Features() != tc.want {
				t.Errorf("features %+v, %v; want %+v", got, err, tc.want)
			}
		})
	}
}

func TestAnAgentThatDoesNotServeIsNotTakenForOneThatDoes(t *testing.T) {
	c := connect(t, &agent{health: agentproto.HealthCheckResponse_NOT_SERVING})
	if _, err := c.Hello(t.Context()); err == nil || !strings.Contains(err.Error(), "NOT_SERVING") {
		t.Errorf("error %v", err)
	}
}

func TestTheAgentsOwnErrorKeepsItsCodeAndSaysWhichCallFailed(t *testing.T) {
	long := "no\x1b[31m such\x00 volume " + strings.Repeat("é", maxMessage)
	c := connect(t, &agent{health: agentproto.HealthCheckResponse_SERVING, fail: status.Error(codes.NotFound, long)})
	_, err := c.GetGuestDetails(t.Context(), &agentproto.GuestDetailsRequest{})
	if !IsCode(err, codes.NotFound) || IsCode(err, codes.Internal) {
		t.Errorf("error %v lost its code", err)
	}
	if s := err.Error(); !strings.HasPrefix(s, "agent: GetGuestDetails: no[31m such volume é") || len(s) > maxMessage+50 {
		t.Errorf("error of %d bytes: %.80q", len(s), s)
	}
	if _, err := c.ResizeVolume(t.Context(), &agentproto.ResizeVolumeRequest{}); !IsCode(err, codes.Unimplemented) {
		t.Errorf("a call the agent does not have gave %v", err)
	}
}

func TestEveryCallIsBoundedExceptThoseThatWaitForAProcess(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		// net.Pipe, because time stands still while anything waits for a real socket.
		here, guest := net.Pipe()
		go func() { _, _ = io.Copy(io.Discard, guest) }()
		c := New(here, Options{Log: discard(), CreateContainerTimeout: 7 * time.Second})
		for _, tc := range []struct {
			name string
			call func() error
			want time.Duration
		}{
			{"Check", func() error { return c.Check(t.Context()) }, 30 * time.Second},
			{"CreateContainer", func() error {
				_, err := c.CreateContainer(t.Context(), &agentproto.CreateContainerRequest{})
				return err
			}, 7 * time.Second},
			{"ResizeVolume", func() error {
				_, err := c.ResizeVolume(t.Context(), &agentproto.ResizeVolumeRequest{})
				return err
			}, time.Minute},
		} {
			began := time.Now()
			err := tc.call()
			if took := time.Since(began); !errors.Is(err, ErrNoAnswer) || took != tc.want {
				t.Errorf("%s: %v after %v, want ErrNoAnswer after %v", tc.name, err, took, tc.want)
			}
		}
		ctx, cancel := context.WithTimeout(t.Context(), 24*time.Hour)
		defer cancel()
		_, err := c.WaitProcess(ctx, &agentproto.WaitProcessRequest{})
		if !errors.Is(err, context.DeadlineExceeded) || errors.Is(err, ErrNoAnswer) {
			t.Errorf("WaitProcess: %v, want only the caller's own deadline", err)
		}
		_ = c.Close()
		_ = guest.Close()
	})
}

func TestAGuestThatTakesNothingInEndsTheConnection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		here, guest := net.Pipe() // nobody reads
		c := New(here, Options{Log: discard()})
		began := time.Now()
		if err := c.Check(t.Context()); !errors.Is(err, ErrGone) {
			t.Errorf("error %v, want ErrGone", err)
		}
		<-c.Gone()
		if took := time.Since(began); took != writeTimeout {
			t.Errorf("it took %v, want %v", took, writeTimeout)
		}
		_ = guest.Close()
	})
}

func TestALostConnectionIsToldAtOnceAndForEver(t *testing.T) {
	here, guest := pair(t)
	c := New(here, Options{Log: discard()})
	waiting := make(chan error)
	go func() {
		_, err := c.WaitProcess(t.Context(), &agentproto.WaitProcessRequest{})
		waiting <- err
	}()
	if _, err := guest.Read(make([]byte, 1)); err != nil { // the request is under way
		t.Fatal(err)
	}
	_ = guest.Close()
	if err := <-waiting; !errors.Is(err, ErrGone) {
		t.Errorf("the call under way got %v", err)
	}
	<-c.Gone()
	if err := c.Check(t.Context()); !errors.Is(err, ErrGone) {
		t.Errorf("a later call got %v", err)
	}
}

func TestNonsenseFromTheGuestIsAnErrorOfTheCall(t *testing.T) {
	const response = 2
	frame := func(length uint32, payload ...byte) []byte {
		b := binary.BigEndian.AppendUint32(nil, length)
		b = binary.BigEndian.AppendUint32(b, 1)
		return append(append(b, response, 0), payload...)
	}
	for _, tc := range []struct {
		name string
		say  []byte
	}{
		{"no protobuf", frame(4, 0xff, 0xff, 0xff, 0xff)},
		{"a part of a message", frame(1000, 1, 2, 3)},
		{"no frame at all", []byte("HTTP/1.1 200 OK\r\n\r\n")},
	} {
		t.Run(tc.name, func(t *testing.T) {
			here, guest := pair(t)
			c := New(here, Options{Log: discard()})
			go func() {
				_, _ = guest.Read(make([]byte, 4096))
				_, _ = guest.Write(tc.say)
				_ = guest.Close()
			}()
			if err := c.Check(t.Context()); !errors.Is(err, ErrGone) {
				t.Errorf("error %v, want ErrGone", err)
			}
		})
	}
}

// patience waits so many times.
type patience struct{ times, asked, waited int }

func (p *patience) Ask() { p.asked++ }

func (p *patience) Wait() bool { p.waited++; return p.waited <= p.times }

func TestWatch(t *testing.T) {
	t.Run("ends quietly with its context", func(t *testing.T) {
		c := connect(t, &agent{health: agentproto.HealthCheckResponse_SERVING})
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		defer cancel()
		if err := c.Watch(ctx, time.Millisecond, time.Second, new(patience)); err != nil {
			t.Errorf("error %v of an agent that serves", err)
		}
	})
	t.Run("tells of an agent that does not answer", func(t *testing.T) {
		c := connect(t, &agent{check: func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }})
		p := &patience{times: 2}
		if err := c.Watch(t.Context(), time.Millisecond, 20*time.Millisecond, p); !errors.Is(err, ErrNoAnswer) {
			t.Errorf("error %v", err)
		}
		if p.asked != 3 || p.waited != 3 {
			t.Errorf("asked %d times, and wanted to give up %d times", p.asked, p.waited)
		}
	})
	t.Run("tells of one that has hung up before the next question", func(t *testing.T) {
		here, guest := pair(t)
		c := New(here, Options{Log: discard()})
		_ = guest.Close()
		if err := c.Watch(t.Context(), time.Hour, time.Second, new(patience)); !errors.Is(err, ErrGone) {
			t.Errorf("error %v", err)
		}
	})
}

func TestAGuestCannotFillTheLog(t *testing.T) {
	var said strings.Builder
	now := time.Now()
	l := lineLimit{log: slog.New(slog.NewTextHandler(&said, nil)), now: func() time.Time { return now }}
	for range 2 {
		for i := range 100_000 {
			_, _ = fmt.Fprintf(&l, "unexpected message %d %s\n", i, strings.Repeat("x", 10_000))
		}
		now = now.Add(2 * window)
	}
	if lines := strings.Count(said.String(), "\n"); lines != 2*linesPerWindow {
		t.Errorf("%d lines in two windows, want %d", lines, 2*linesPerWindow)
	}
	if said.Len() > 2*linesPerWindow*2*maxLine {
		t.Errorf("%d bytes", said.Len())
	}
}
