package agentclient

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/containerd/ttrpc"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/katadirect/katadirect/pkg/agentproto"
)

// orderly is an agent whose reads of much output do not get as far as its ttrpc library, which would refuse their ids.
type orderly struct {
	net.Conn // the library's, with everything else
	host     net.Conn
	agent    *agent
	write    sync.Mutex
	taken    int
}

// connectOrderly returns a client of a, which announces that it answers in order.
func connectOrderly(t *testing.T, a *agent) (*Client, *orderly) {
	t.Helper()
	a.health = agentproto.HealthCheckResponse_SERVING
	a.details = &agentproto.AgentDetails{ExtraFeatures: []string{"katadirect.output-in-order"}}
	here, there := pair(t)
	library, inner := net.Pipe()
	o := &orderly{Conn: inner, host: there, agent: a}
	serve(t, library, a)
	go o.sort()
	go func() { _, _ = io.Copy(lockedWriter{o}, inner) }()
	c := New(here, Options{Log: discard()})
	t.Cleanup(func() { _ = c.Close(); <-c.Gone() })
	if _, err := c.Hello(t.Context()); err != nil {
		t.Fatal(err)
	}
	return c, o
}

// lockedWriter writes to the host: the library only while nothing else is asked.
type lockedWriter struct{ o *orderly }

func (w lockedWriter) Write(p []byte) (int, error) {
	w.o.write.Lock()
	defer w.o.write.Unlock()
	return w.o.host.Write(p)
}

// sort answers what is not the library's.
func (o *orderly) sort() {
	defer o.Conn.Close()
	for {
		head := make([]byte, 10)
		if _, err := io.ReadFull(o.host, head); err != nil {
			return
		}
		message := make([]byte, binary.BigEndian.Uint32(head))
		if _, err := io.ReadFull(o.host, message); err != nil {
			return
		}
		if head[4]&0x80 == 0 {
			if _, err := o.Conn.Write(append(head, message...)); err != nil {
				return
			}
			continue
		}
		o.taken++
		answer := o.answer(message)
		binary.BigEndian.PutUint32(head, uint32(len(answer)))
		head[8] = 2
		if _, err := (lockedWriter{o}).Write(append(head, answer...)); err != nil {
			return
		}
	}
}

func (o *orderly) answer(message []byte) []byte {
	var req ttrpc.Request
	var read agentproto.ReadStreamRequest
	if err := errors.Join(proto.Unmarshal(message, &req), proto.Unmarshal(req.GetPayload(), &read)); err != nil {
		panic(err)
	}
	var resp ttrpc.Response
	switch data, err := o.agent.ReadStdout(context.Background(), &read); {
	case req.Service != "grpc.AgentService" || req.Method != "ReadStdout" || read.ContainerId != "c1" || read.ExecId != "e1":
		resp.Status = status.New(codes.InvalidArgument, req.String()).Proto()
	case err != nil:
		resp.Status = status.Convert(err).Proto()
	default:
		resp.Payload, _ = proto.Marshal(data)
	}
	answer, _ := proto.Marshal(&resp)
	return answer
}

// fifo is a sink, with a reader that takes everything.
type fifo struct {
	*os.File
	got  bytes.Buffer
	done chan struct{}
}

func newFIFO(t *testing.T) *fifo {
	t.Helper()
	path := filepath.Join(t.TempDir(), "fifo")
	if err := unix.Mkfifo(path, 0o600); err != nil {
		t.Fatal(err)
	}
	f := &fifo{done: make(chan struct{})}
	go func() {
		defer close(f.done)
		r, err := os.Open(path)
		if err != nil {
			t.Error(err)
			return
		}
		defer r.Close()
		_, _ = f.got.ReadFrom(r)
	}()
	var err error
	if f.File, err = os.OpenFile(path, os.O_WRONLY, 0); err != nil {
		t.Fatal(err)
	}
	return f
}

func (f *fifo) TryWrite(p []byte) (n int) {
	raw, err := f.SyscallConn()
	if err == nil {
		_ = raw.Control(func(fd uintptr) { n, _ = unix.Write(int(fd), p) })
	}
	return max(n, 0)
}

func TestMuchOutputGoesPastTheLibraryAndArrivesWhole(t *testing.T) {
	var parts [][]byte
	for i := range 40 {
		parts = append(parts, bytes.Repeat([]byte{byte(i)}, []int{chunk, 1, bulkChunk, 4095, 130_000}[i%5]))
	}
	c, o := connectOrderly(t, &agent{output: parts})
	f := newFIFO(t)
	n, err := c.Stdout(t.Context(), "c1", "e1").WriteTo(f)
	_ = f.Close()
	<-f.done
	if want := bytes.Join(parts, nil); err != nil || n != int64(len(want)) || !bytes.Equal(f.got.Bytes(), want) {
		t.Errorf("%d bytes of %d, %v", n, len(want), err)
	}
	if o.taken < len(parts)-1 {
		t.Errorf("only %d pieces went past the library", o.taken)
	}
	for _, times := range c.CallTimes() {
		if times.Action == "grpc.ReadStreamRequest" && times.Count < uint64(len(parts)) {
			t.Errorf("%d calls are counted", times.Count)
		}
	}
}

func TestAnErrorPastTheLibraryIsTheAgentsToo(t *testing.T) {
	c, _ := connectOrderly(t, &agent{output: [][]byte{make([]byte, chunk), make([]byte, bulkChunk+1)}})
	f := newFIFO(t)
	defer f.Close()
	n, err := c.Stdout(t.Context(), "c1", "e1").WriteTo(f)
	if !errors.Is(err, errStream) || errors.Is(err, ErrGone) || n != chunk {
		t.Errorf("%d bytes, %v", n, err)
	}
	c, _ = connectOrderly(t, &agent{output: [][]byte{make([]byte, chunk)}})
	if _, err := c.Stdout(t.Context(), "c1", "another").WriteTo(f); !IsCode(err, codes.InvalidArgument) {
		t.Errorf("error %v", err)
	}
}

// Kata's agent looks at the ids, and answers in any order.
func TestAnAgentThatDoesNotPromiseOrderIsNotAskedPastTheLibrary(t *testing.T) {
	parts := [][]byte{make([]byte, chunk), make([]byte, bulkChunk), make([]byte, 5)}
	c := connect(t, &agent{output: parts, health: agentproto.HealthCheckResponse_SERVING})
	f := newFIFO(t)
	n, err := c.Stdout(t.Context(), "c1", "e1").WriteTo(f)
	_ = f.Close()
	<-f.done
	if err != nil || n != chunk+bulkChunk+5 || f.got.Len() != int(n) {
		t.Errorf("%d bytes, of which %d arrived, %v", n, f.got.Len(), err)
	}
	if err := c.Check(t.Context()); err != nil {
		t.Errorf("after that: %v", err)
	}
}
