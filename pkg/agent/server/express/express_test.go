package express

import (
	"bytes"
	"context"
	"crypto/rand"
	"net"
	"path/filepath"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/containerd/ttrpc"
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

// buffered is an answer of data.
func buffered(data []byte) Answer {
	b := NewBuffer(1 << 20)
	return Answer{Field: 1, Buffer: b, Bytes: copy(b.Space(), data)}
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
	express, carried := random(1<<20), random(300<<10)
	sizes := make(chan int, 100)
	c := serve(t, taking("Fill", func(context.Context) Answer { return buffered(express[:<-sizes]) }))
	var all sync.WaitGroup
	for range 4 {
		all.Go(func() {
			for _, size := range []int{1, 127, 128, 16 << 10, 1 << 20, 2, 1 << 20} {
				sizes <- size
				got, err := call(t, c, "Fill", nil)
				if err != nil || len(got) == 0 || !bytes.Equal(got, express[:len(got)]) {
					t.Errorf("express: %d bytes, %v", len(got), err)
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
	c := serve(t, taking("Fill", func(context.Context) Answer { return <-answers }))
	answers <- Answer{Status: status.New(codes.NotFound, "no such stream")}
	if _, err := call(t, c, "Fill", nil); status.Code(err) != codes.NotFound {
		t.Errorf("failure: %v", err)
	}
	answers <- Answer{Message: []byte{0x0a, 2, 'h', 'i'}}
	if got, err := call(t, c, "Fill", nil); err != nil || string(got) != "hi" {
		t.Errorf("message: %q, %v", got, err)
	}
	answers <- Answer{}
	if got, err := call(t, c, "Fill", nil); err != nil || len(got) > 0 {
		t.Errorf("nothing: %q, %v", got, err)
	}
}

func TestWaitingEndsWithTheRequestsTimeAndWithTheConnection(t *testing.T) {
	ended := make(chan error, 1)
	c := serve(t, taking("Fill", func(ctx context.Context) Answer {
		<-ctx.Done()
		ended <- ctx.Err()
		return Answer{Status: status.FromContextError(ctx.Err())}
	}))
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := c.Call(ctx, "test", "Fill", wrapperspb.Bytes(nil), &wrapperspb.BytesValue{}); err == nil {
		t.Error("answered")
	}
	if err := <-ended; err != context.DeadlineExceeded {
		t.Errorf("with the request's time: %v", err)
	}
	failed := make(chan error, 1)
	go func() {
		failed <- c.Call(context.Background(), "test", "Fill", wrapperspb.Bytes(nil), &wrapperspb.BytesValue{})
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
