package express

import (
	"bytes"
	"context"
	"crypto/rand"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/containerd/ttrpc"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/wrapperspb"
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
// what it takes. Both kinds of message are a BytesValue, with field 1.
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

func call(t *testing.T, c *ttrpc.Client, method string, data []byte) ([]byte, error) {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	var answer wrapperspb.BytesValue
	err := c.Call(ctx, "test", method, wrapperspb.Bytes(data), &answer)
	return answer.GetValue(), err
}

// piped is an answer of data, less what is short of it.
func piped(t *testing.T, data []byte, short int) Answer {
	var ends [2]int
	if err := unix.Pipe2(ends[:], unix.O_CLOEXEC|unix.O_NONBLOCK); err != nil {
		t.Error(err)
	}
	if _, err := unix.FcntlInt(uintptr(ends[1]), unix.F_SETPIPE_SZ, 1<<20); err != nil {
		t.Error(err)
	}
	w := os.NewFile(uintptr(ends[1]), "pipe")
	if _, err := w.Write(data[short:]); err != nil {
		t.Error(err)
	}
	w.Close()
	return Answer{Field: 1, Pipe: ends[0], Bytes: len(data), Close: func() { unix.Close(ends[0]) }}
}

// places has every request in a line of its own.
var places atomic.Int32

func taking(method string, work func(context.Context) Answer) Handler {
	return func(req *ttrpc.Request) *Work {
		if req.Method != method {
			return nil
		}
		return &Work{Queue: strconv.Itoa(int(places.Add(1))), Do: work}
	}
}

func random(n int) []byte {
	data := make([]byte, n)
	_, _ = rand.Read(data)
	return data
}

func TestAnswersOfBothAreWholeWhileTheyTakeTurns(t *testing.T) {
	moved, carried := random(1<<20), random(300<<10)
	c := serve(t, taking("Move", func(context.Context) Answer { return piped(t, moved, 0) }))
	var all sync.WaitGroup
	for range 4 {
		all.Go(func() {
			for range 10 {
				if got, err := call(t, c, "Move", nil); err != nil || !bytes.Equal(got, moved) {
					t.Errorf("moved: %d bytes, %v", len(got), err)
				}
			}
		})
		all.Go(func() {
			for _, size := range []int{0, 1, 1000, 1500, 2500, 4080, 4096, len(carried), 3, len(carried)} {
				if got, err := call(t, c, "Echo", carried[:size]); err != nil || !bytes.Equal(got, carried[:size]) {
					t.Errorf("carried: %d bytes of %d, %v", len(got), size, err)
				}
			}
		})
	}
	all.Wait()
}

func TestAFailureAndAMessageAndNothingAreAnswersToo(t *testing.T) {
	answers := make(chan Answer, 3)
	c := serve(t, taking("Move", func(context.Context) Answer { return <-answers }))
	answers <- Answer{Status: status.New(codes.NotFound, "no such stream")}
	if _, err := call(t, c, "Move", nil); status.Code(err) != codes.NotFound {
		t.Errorf("failure: %v", err)
	}
	answers <- Answer{Message: []byte{0x0a, 2, 'h', 'i'}}
	if got, err := call(t, c, "Move", nil); err != nil || string(got) != "hi" {
		t.Errorf("message: %q, %v", got, err)
	}
	answers <- Answer{}
	if got, err := call(t, c, "Move", nil); err != nil || len(got) > 0 {
		t.Errorf("nothing: %q, %v", got, err)
	}
}

func TestAPipeThatEndsTooSoonEndsTheConnectionAndWhatWaitsOnIt(t *testing.T) {
	waiting, ended := make(chan struct{}), make(chan struct{})
	c := serve(t, func(req *ttrpc.Request) *Work {
		switch req.Method {
		case "Wait":
			return &Work{Queue: "waiting", Do: func(ctx context.Context) Answer {
				close(waiting)
				<-ctx.Done()
				close(ended)
				return Answer{}
			}}
		case "Move":
			return &Work{Do: func(context.Context) Answer { return piped(t, random(100_000), 1) }}
		}
		return nil
	})
	go func() {
		_ = c.Call(context.Background(), "test", "Wait", wrapperspb.Bytes(nil), &wrapperspb.BytesValue{})
	}()
	<-waiting
	if got, err := call(t, c, "Move", nil); err == nil {
		t.Errorf("%d bytes", len(got))
	}
	if _, err := call(t, c, "Echo", nil); err == nil {
		t.Error("the connection goes on after half a frame")
	}
	select {
	case <-ended:
	case <-time.After(time.Minute):
		t.Error("somebody waits on a connection that has ended")
	}
}

func TestWaitingEndsWithTheRequestsTimeAndWithTheConnection(t *testing.T) {
	ended := make(chan error, 1)
	c := serve(t, taking("Move", func(ctx context.Context) Answer {
		<-ctx.Done()
		ended <- ctx.Err()
		return Answer{Status: status.FromContextError(ctx.Err())}
	}))
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := c.Call(ctx, "test", "Move", wrapperspb.Bytes(nil), &wrapperspb.BytesValue{}); err == nil {
		t.Error("answered")
	}
	if err := <-ended; err != context.DeadlineExceeded {
		t.Errorf("with the request's time: %v", err)
	}
	failed := make(chan error, 1)
	go func() {
		failed <- c.Call(context.Background(), "test", "Move", wrapperspb.Bytes(nil), &wrapperspb.BytesValue{})
	}()
	if _, err := call(t, c, "Echo", nil); err != nil { // sent after it
		t.Fatal(err)
	}
	c.Close()
	if err := <-ended; err != context.Canceled {
		t.Errorf("with the connection: %v", err)
	}
	if err := <-failed; err == nil {
		t.Error("answered after the end")
	}
}
