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
	"sync/atomic"
	"testing"
	"time"

	"github.com/containerd/ttrpc"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/katadirect/katadirect/pkg/agentproto"
)

// sending is an agent that has katadirect.output.v1.Output: the calls of the ttrpc library and those that go past it reach
// libraries of their own, for one would not take both's ids.
type sending struct {
	*agent
	host   net.Conn
	write  sync.Mutex
	opened atomic.Int64
	excess bool // it disregards the credit
}

// connectSending returns a client of a, which announces that it sends output by itself.
func connectSending(t *testing.T, s *sending) *Client {
	t.Helper()
	s.health = agentproto.HealthCheckResponse_SERVING
	s.details = &agentproto.AgentDetails{ExtraFeatures: []string{"katadirect.output"}}
	here, there := pair(t)
	s.host = there
	library, calls := net.Pipe()
	past, streams := net.Pipe()
	serve(t, library, s.agent)
	serveOn(t, past, func(server *ttrpc.Server) { agentproto.RegisterOutputService(server, s) })
	go s.sort(calls, streams)
	for _, from := range []net.Conn{calls, streams} {
		go func() {
			for frame, err := readFrame(from); err == nil; frame, err = readFrame(from) {
				s.write.Lock()
				_, _ = s.host.Write(frame)
				s.write.Unlock()
			}
		}()
	}
	c := New(here, Options{Log: discard()})
	t.Cleanup(func() { _ = c.Close(); <-c.Gone() })
	if _, err := c.Hello(t.Context()); err != nil {
		t.Fatal(err)
	}
	return c
}

// sort passes the host's frames on by their ids.
func (s *sending) sort(calls, streams net.Conn) {
	defer calls.Close()
	defer streams.Close()
	for frame, err := readFrame(s.host); err == nil; frame, err = readFrame(s.host) {
		to := calls
		if frame[4]&0x80 != 0 {
			to = streams
		}
		if _, err := to.Write(frame); err != nil {
			return
		}
	}
}

func readFrame(from io.Reader) ([]byte, error) {
	head := make([]byte, 10)
	if _, err := io.ReadFull(from, head); err != nil {
		return nil, err
	}
	frame := append(head, make([]byte, binary.BigEndian.Uint32(head))...)
	_, err := io.ReadFull(from, frame[len(head):])
	return frame, err
}

// Stream sends what is left of the output.
func (s *sending) Stream(_ context.Context, to agentproto.Output_StreamServer) error {
	s.opened.Add(1)
	req, err := to.Recv()
	if err != nil {
		return err
	}
	if req.GetContainerId() != "c1" || req.GetExecId() != "e1" || req.GetStderr() {
		return status.Error(codes.InvalidArgument, req.String())
	}
	credit := int(req.GetCredit())
	for _, part := range s.output {
		for len(part) > 0 {
			n := min(len(part), credit)
			if s.excess {
				n = len(part)
			}
			if n > 0 {
				if err := to.Send(&agentproto.OutputData{Data: part[:n]}); err != nil {
					return err
				}
				part, credit = part[n:], credit-n
				continue
			}
			if req, err = to.Recv(); err != nil {
				return err
			}
			credit += int(req.GetCredit())
		}
	}
	return nil
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
	s := &sending{agent: &agent{output: parts}}
	c := connectSending(t, s)
	f := newFIFO(t)
	n, err := c.Stdout(t.Context(), "c1", "e1").WriteTo(f)
	_ = f.Close()
	<-f.done
	if want := bytes.Join(parts, nil); err != nil || n != int64(len(want)) || !bytes.Equal(f.got.Bytes(), want) {
		t.Errorf("%d bytes of %d, %v", n, len(want), err)
	}
	if reads, opened := s.reads.Load(), s.opened.Load(); reads != 1 || opened != 1 {
		t.Errorf("%d reads by the library and %d streams", reads, opened)
	}
}

func TestAnErrorPastTheLibraryIsTheAgentsToo(t *testing.T) {
	c := connectSending(t, &sending{excess: true, agent: &agent{output: [][]byte{
		make([]byte, chunk), make([]byte, bulkChunk), make([]byte, bulkChunk), make([]byte, bulkChunk), make([]byte, bulkChunk)}}})
	f := newFIFO(t)
	defer f.Close()
	if n, err := c.Stdout(t.Context(), "c1", "e1").WriteTo(stuck{f}); !errors.Is(err, errStream) || errors.Is(err, ErrGone) || n < chunk {
		t.Errorf("%d bytes, %v", n, err)
	}
	c = connectSending(t, &sending{agent: &agent{output: [][]byte{make([]byte, chunk)}}})
	if _, err := c.Stdout(t.Context(), "c1", "another").WriteTo(f); !IsCode(err, codes.InvalidArgument) {
		t.Errorf("error %v", err)
	}
}

// stuck has no room, and writes what it has to slowly.
type stuck struct{ *fifo }

func (s stuck) TryWrite([]byte) int { return 0 }

func (s stuck) Write(p []byte) (int, error) {
	time.Sleep(50 * time.Millisecond)
	return s.fifo.Write(p)
}

// Kata's agent looks at the ids, and has no such service.
func TestAnAgentThatDoesNotSaySoIsNotAskedPastTheLibrary(t *testing.T) {
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
