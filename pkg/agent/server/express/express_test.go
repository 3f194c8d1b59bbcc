package express

import (
	"bytes"
	"context"
	"crypto/rand"
	"io"
	"net"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/containerd/ttrpc"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/katadirect/katadirect/pkg/agent/process"
	"github.com/katadirect/katadirect/pkg/agentproto"
)

// wrapping has every connection of a listener wrapped.
type wrapping struct {
	net.Listener
	handler Handler
}

func (w *wrapping) Accept() (net.Conn, error) {
	conn, err := w.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return Wrap(conn, w.handler), nil
}

// serve has the library answer "Echo" of the service "test", and the handler
// streams of output. The client is the library's: it must not see a difference.
func serve(t *testing.T, h Handler) *ttrpc.Client {
	t.Helper()
	server, err := ttrpc.NewServer()
	if err != nil {
		t.Fatal(err)
	}
	server.Register("test", map[string]ttrpc.Method{
		"Echo": func(_ context.Context, unmarshal func(any) error) (any, error) {
			var v wrapperspb.BytesValue
			err := unmarshal(&v)
			return &v, err
		},
	})
	l, err := net.Listen("unix", filepath.Join(t.TempDir(), "s"))
	if err != nil {
		t.Fatal(err)
	}
	go func() { _ = server.Serve(context.Background(), &wrapping{l, h}) }()
	conn, err := net.Dial("unix", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	client := ttrpc.NewClient(conn)
	t.Cleanup(func() {
		client.Close()
		server.Close()
	})
	return client
}

func echo(t *testing.T, c *ttrpc.Client, data []byte) ([]byte, error) {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	var answer wrapperspb.BytesValue
	err := c.Call(ctx, "test", "Echo", wrapperspb.Bytes(data), &answer)
	return answer.GetValue(), err
}

// open begins a stream, named as its container.
func open(t *testing.T, c *ttrpc.Client, name string, credit uint32) agentproto.Output_StreamClient {
	t.Helper()
	s, err := agentproto.NewOutputClient(c).Stream(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	give(t, s, name, credit)
	return s
}

func give(t *testing.T, s agentproto.Output_StreamClient, name string, credit uint32) {
	t.Helper()
	if err := s.Send(&agentproto.OutputRequest{ContainerId: name, Credit: credit}); err != nil {
		t.Error(err)
	}
}

// next is the next piece; nil at the end.
func next(t *testing.T, s agentproto.Output_StreamClient) []byte {
	t.Helper()
	got, err := s.Recv()
	if err == io.EOF {
		return nil
	}
	if err != nil {
		t.Fatal(err)
	}
	return got.GetData()
}

func random(n int) []byte {
	data := make([]byte, n)
	_, _ = rand.Read(data)
	return data
}

// writeFromNowhere leaves a page in the pipe in which there is nothing.
func writeFromNowhere(t *testing.T, pipe *os.File) {
	const nowhere = 1
	raw, err := pipe.SyscallConn()
	if err == nil {
		err = raw.Control(func(fd uintptr) {
			if _, _, errno := unix.RawSyscall(unix.SYS_WRITE, fd, nowhere, 4096); errno != unix.EFAULT {
				t.Errorf("a write from nowhere says %v", errno)
			}
		})
	}
	if err != nil {
		t.Error(err)
	}
}

// sending sends data, written to a pipe piece by piece, by large and small
// pieces in turns.
func sending(t *testing.T, all []byte, pieces ...int) Handler {
	return func(ctx context.Context, req *agentproto.OutputRequest, to *Sender) *status.Status {
		pipe, in, err := os.Pipe()
		if err != nil {
			t.Error(err)
			return nil
		}
		defer pipe.Close()
		defer in.Close()
		if _, err := unix.FcntlInt(in.Fd(), unix.F_SETPIPE_SZ, 1<<20); err != nil {
			t.Error(err)
		}
		takers := []process.Taker{to.Taker(1 << 20), to.Taker(100_000), to.Taker(4 << 10)}
		for i, data := 0, all; len(data) > 0; i++ {
			piece := data[:min(len(data), pieces[i%len(pieces)])]
			data = data[len(piece):]
			writeFromNowhere(t, in)
			if _, err := in.Write(piece); err != nil {
				t.Error(err)
			}
			for left := len(piece); left > 0; {
				by := takers[i%3]
				if err := by.Ready(ctx); err != nil {
					return status.FromContextError(err)
				}
				n, err := by.Take(int(pipe.Fd()))
				if err == nil {
					err = by.Taken(n)
				}
				if err != nil || n == 0 {
					t.Errorf("%d bytes, %v", n, err)
					return nil
				}
				left -= n
			}
		}
		return nil
	}
}

func TestStreamsAndAnswersAreWholeWhileTheyTakeTurns(t *testing.T) {
	const size = 5_000_001
	want, echoed := random(size), random(300<<10)
	c := serve(t, sending(t, want, 1, 127, 128, 4096, 16<<10, 1<<20, 2, 100_000))
	var all sync.WaitGroup
	for range 4 {
		all.Go(func() {
			s := open(t, c, "c", 1<<20)
			var got []byte
			for {
				piece := next(t, s)
				if piece == nil {
					break
				}
				got = append(got, piece...)
				give(t, s, "", uint32(len(piece)))
			}
			if !bytes.Equal(got, want) {
				t.Errorf("%d bytes of %d, or others", len(got), len(want))
			}
		})
		all.Go(func() {
			for _, size := range []int{0, 1, 1000, 1500, 2500, 4080, 4096, len(echoed), 3, len(echoed)} {
				if got, err := echo(t, c, echoed[:size]); err != nil || !bytes.Equal(got, echoed[:size]) {
					t.Errorf("echoed: %d bytes of %d, %v", len(got), size, err)
				}
			}
		})
	}
	all.Wait()
}

func TestNothingIsSentBeyondTheCredit(t *testing.T) {
	want := random(300_000)
	c := serve(t, sending(t, want, 1<<20))
	s := open(t, c, "c", 1000)
	got := next(t, s)
	if len(got) != 1000 {
		t.Errorf("%d bytes", len(got))
	}
	// The next piece cannot be there before there is credit for it, and others do not wait.
	for range 3 {
		if _, err := echo(t, c, nil); err != nil {
			t.Error(err)
		}
	}
	for _, credit := range []uint32{1, 50_000, 1 << 20} {
		give(t, s, "", credit)
		piece := next(t, s)
		if len(piece) > int(credit) {
			t.Errorf("%d bytes for a credit of %d", len(piece), credit)
		}
		got = append(got, piece...)
	}
	for piece := next(t, s); piece != nil; piece = next(t, s) {
		got = append(got, piece...)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("%d bytes of %d, or others", len(got), len(want))
	}
}

func TestWhatAStreamIsAboutIsSaidByItsRequestOrItsFirstMessage(t *testing.T) {
	c := serve(t, func(_ context.Context, req *agentproto.OutputRequest, _ *Sender) *status.Status {
		return status.New(codes.NotFound, "no "+req.GetContainerId())
	})
	_, err := open(t, c, "one", 1).Recv()
	if status.Code(err) != codes.NotFound || status.Convert(err).Message() != "no one" {
		t.Errorf("error %v", err)
	}
	raw, err := c.NewStream(t.Context(), &ttrpc.StreamDesc{StreamingClient: true, StreamingServer: true},
		service, method, &agentproto.OutputRequest{ContainerId: "two"})
	if err != nil {
		t.Fatal(err)
	}
	if err := raw.RecvMsg(&agentproto.OutputData{}); status.Convert(err).Message() != "no two" {
		t.Errorf("error %v", err)
	}
	// Other methods are the library's to refuse.
	if err := c.Call(t.Context(), service, "Another", wrapperspb.Bytes(nil), &wrapperspb.BytesValue{}); status.Code(err) != codes.Unimplemented {
		t.Errorf("error %v", err)
	}
}

func TestAStreamEndsWhenTheHostClosesItAndWithTheConnection(t *testing.T) {
	began, ended := make(chan struct{}), make(chan error, 1)
	c := serve(t, func(ctx context.Context, req *agentproto.OutputRequest, to *Sender) *status.Status {
		began <- struct{}{}
		err := to.Ready(ctx)
		ended <- err
		return status.FromContextError(err)
	})
	s := open(t, c, "c", 0)
	<-began
	if err := s.CloseSend(); err != nil {
		t.Fatal(err)
	}
	if err := <-ended; err != context.Canceled {
		t.Errorf("closed by the host: %v", err)
	}
	if _, err := s.Recv(); status.Code(err) != codes.Canceled {
		t.Errorf("after that: %v", err)
	}
	late := open(t, c, "c", 0)
	<-began
	c.Close()
	if err := <-ended; err != context.Canceled {
		t.Errorf("with the connection: %v", err)
	}
	if _, err := late.Recv(); err == nil {
		t.Error("it goes on")
	}
}
