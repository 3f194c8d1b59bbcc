package express

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/containerd/ttrpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/katadirect/katadirect/internal/ttrpcframe"
	"github.com/katadirect/katadirect/pkg/agentproto"
)

const pieceBytes = 1 << 20

// pair is two ends of a unix socket, like the machine's.
func pair(t testing.TB) (here, guest net.Conn) {
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

// guest is the other end, which answers by hand.
type guest struct {
	t testing.TB
	net.Conn
}

// asked reads a request.
func (g guest) asked() (id uint32, req *ttrpc.Request) {
	g.t.Helper()
	id, req, err := readRequest(g)
	if err != nil {
		g.t.Errorf("a request that is none: %v", err)
	}
	return id, req
}

func readRequest(from io.Reader) (id uint32, req *ttrpc.Request, err error) {
	head := make([]byte, ttrpcframe.HeadSize)
	if _, err := io.ReadFull(from, head); err != nil {
		return 0, nil, err
	}
	message := make([]byte, binary.BigEndian.Uint32(head))
	if _, err := io.ReadFull(from, message); err != nil {
		return 0, nil, err
	}
	if head[8] != ttrpcframe.TypeRequest {
		return 0, nil, fmt.Errorf("type %d", head[8])
	}
	req = &ttrpc.Request{}
	return binary.BigEndian.Uint32(head[4:]), req, proto.Unmarshal(message, req)
}

func frame(id uint32, kind byte, message []byte) []byte {
	b := binary.BigEndian.AppendUint32(nil, uint32(len(message)))
	b = binary.BigEndian.AppendUint32(b, id)
	return append(append(b, kind, 0), message...)
}

// output is an answer with data.
func output(data []byte) []byte {
	inner, _ := proto.Marshal(&agentproto.ReadStreamResponse{Data: data})
	outer, _ := proto.Marshal(&ttrpc.Response{Payload: inner})
	return outer
}

func failure(code codes.Code, text string) []byte {
	m, _ := proto.Marshal(&ttrpc.Response{Status: status.New(code, text).Proto()})
	return m
}

func (g guest) say(b []byte) {
	g.t.Helper()
	if _, err := g.Write(b); err != nil {
		g.t.Error(err)
	}
}

func (g guest) answer(id uint32, message []byte) { g.say(frame(id, ttrpcframe.TypeResponse, message)) }

// connect returns both ends; the library has its own, with which it calls.
func connect(t testing.TB) (*Conn, *ttrpc.Client, guest) {
	here, there := pair(t)
	c := Wrap(here)
	library := ttrpc.NewClient(c)
	t.Cleanup(func() { _ = library.Close() })
	return c, library, guest{t, there}
}

func request() Request {
	return Request{Service: "test", Method: "Read", Payload: []byte("what"), PieceBytes: pieceBytes}
}

// sink takes what it has room for, and all when it is waited for.
type sink struct {
	mu   sync.Mutex
	got  bytes.Buffer
	room int           // without waiting
	gate chan struct{} // Write waits for it, if it is not nil
	err  error
}

func (s *sink) TryWrite(p []byte) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := min(s.room, len(p))
	s.room -= n
	s.got.Write(p[:n])
	return n
}

func (s *sink) Write(p []byte) (int, error) {
	if s.gate != nil {
		<-s.gate
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err != nil {
		return 0, s.err
	}
	return s.got.Write(p)
}

func (s *sink) bytes() []byte {
	s.mu.Lock()
	defer s.mu.Unlock()
	return bytes.Clone(s.got.Bytes())
}

// copied is what has come of Copy.
type copied struct {
	n   int64
	err error
}

func begin(ctx context.Context, c *Conn, to Sink) <-chan copied {
	done := make(chan copied, 1)
	go func() {
		n, err := c.Copy(ctx, request(), to)
		done <- copied{n, err}
	}()
	return done
}

func noise(n int) []byte {
	data := make([]byte, n)
	_, _ = rand.NewChaCha8([32]byte{1}).Read(data)
	return data
}

func TestAStreamIsPassedOnToItsEndWithTwoRequestsUnderWay(t *testing.T) {
	c, _, g := connect(t)
	to := &sink{room: 1 << 30}
	done := begin(t.Context(), c, to)
	var want []byte
	first, req := g.asked()
	if req.Service != "test" || req.Method != "Read" || string(req.Payload) != "what" || req.TimeoutNano != 0 {
		t.Errorf("asked %v", req)
	}
	second, _ := g.asked() // before there is an answer
	for _, size := range []int{pieceBytes, 1, 100_000, 128 << 10, 127, 128, 16383, 16384, 3} {
		data := noise(size)
		want = append(want, data...)
		g.answer(first, output(data))
		first, second = second, 0
		second, _ = g.asked()
	}
	g.answer(first, nil) // no bytes are the end
	g.answer(second, nil)
	if got := <-done; got.err != nil || got.n != int64(len(want)) || !bytes.Equal(to.bytes(), want) {
		t.Errorf("%d bytes of %d, %v", got.n, len(want), got.err)
	}
}

// Whatever pieces the channel brings it in.
func TestAnswersArePutTogetherHoweverTheyArrive(t *testing.T) {
	data := noise(700)
	for _, size := range []int{1, 3, 10, 17, 700} {
		c, _, g := connect(t)
		to := &sink{room: 1 << 30}
		done := begin(t.Context(), c, to)
		first, _ := g.asked()
		second, _ := g.asked()
		stream := append(frame(first, ttrpcframe.TypeResponse, output(data)), frame(second, ttrpcframe.TypeResponse, output(nil))...)
		for len(stream) > 0 {
			n := min(size, len(stream))
			g.say(stream[:n])
			stream = stream[n:]
			time.Sleep(10 * time.Microsecond)
		}
		if got := <-done; got.err != nil || !bytes.Equal(to.bytes(), data) {
			t.Errorf("in pieces of %d: %d bytes, %v", size, got.n, got.err)
		}
	}
}

func TestTheLibraryGetsItsAnswersInBetween(t *testing.T) {
	c, library, g := connect(t)
	to := &sink{room: 1 << 30}
	done := begin(t.Context(), c, to)
	go func() {
		// Echo what is the library's, and answer what is not with a piece, 50 times.
		for pieces := 0; ; {
			id, req, err := readRequest(g)
			switch {
			case err != nil:
				return // it has hung up
			case req.Method == "Echo":
				m, _ := proto.Marshal(&ttrpc.Response{Payload: req.Payload})
				g.answer(id, m)
			case pieces == 50:
				g.answer(id, nil)
			default:
				g.answer(id, output(noise(pieceBytes)))
				pieces++
			}
		}
	}()
	for _, size := range []int{0, 1, 4086, 100_000, 3, 1 << 20, 4096} {
		var got wrapperspb.BytesValue
		want := noise(size)
		if err := library.Call(t.Context(), "test", "Echo", wrapperspb.Bytes(want), &got); err != nil || !bytes.Equal(got.Value, want) {
			t.Errorf("%d bytes came back as %d, %v", size, len(got.Value), err)
		}
	}
	if got := <-done; got.err != nil || got.n != 50*pieceBytes || !bytes.Equal(to.bytes(), bytes.Repeat(noise(pieceBytes), 50)) {
		t.Errorf("%d bytes, %v", got.n, got.err)
	}
}

// What a reader does not take is kept here, as much as had been asked for; the channel goes on for everybody else.
func TestASinkThatTakesNothingHoldsUpItsStreamAlone(t *testing.T) {
	c, library, g := connect(t)
	stuck := &sink{room: 1000, gate: make(chan struct{})}
	done := begin(t.Context(), c, stuck)
	first, _ := g.asked()
	second, _ := g.asked()
	want := noise(2 * pieceBytes)
	g.answer(first, output(want[:pieceBytes]))
	g.answer(second, output(want[pieceBytes:]))
	echoed := make(chan error)
	go func() {
		echoed <- library.Call(t.Context(), "test", "Echo", wrapperspb.Bytes(nil), &wrapperspb.BytesValue{})
	}()
	id, req := g.asked()
	if req.Method != "Echo" {
		t.Fatalf("more was asked for: %v", req)
	}
	g.answer(id, nil)
	if err := <-echoed; err != nil {
		t.Error(err)
	}
	other := &sink{room: 1 << 30}
	otherDone := begin(t.Context(), c, other)
	id, _ = g.asked()
	g.asked()
	g.answer(id, output(want))
	_ = other
	if err := (<-otherDone).err; !errors.Is(err, ErrAnswer) { // two MiB for the one it has asked for
		t.Error(err)
	}
	close(stuck.gate)
	// As long as it is slow it asks for one piece at a time.
	id, _ = g.asked()
	g.answer(id, output([]byte("end")))
	id, _ = g.asked()
	g.answer(id, nil)
	if got := <-done; got.err != nil || !bytes.Equal(stuck.bytes(), append(want, "end"...)) {
		t.Errorf("%d bytes, %v", got.n, got.err)
	}
}

func TestHowAStreamEnds(t *testing.T) {
	big := failure(codes.Internal, string(bytes.Repeat([]byte("x"), unpackLimit)))
	for _, tc := range []struct {
		name string
		say  func(g guest, first, second uint32)
		is   func(error) bool
	}{
		{"the agent's own error", func(g guest, first, _ uint32) { g.answer(first, failure(codes.NotFound, "no such process")) },
			func(err error) bool { return status.Code(err) == codes.NotFound }},
		{"more than was asked for", func(g guest, first, _ uint32) { g.answer(first, output(make([]byte, pieceBytes+1))) }, badAnswer},
		{"the second answer first", func(g guest, _, second uint32) { g.answer(second, output([]byte("x"))) }, badAnswer},
		{"a request", func(g guest, first, _ uint32) { g.say(frame(first, ttrpcframe.TypeRequest, output([]byte("x")))) }, badAnswer},
		{"no protobuf", func(g guest, first, _ uint32) { g.answer(first, []byte{0xff, 0xff, 0xff}) }, badAnswer},
		{"a length within that is too large", func(g guest, first, _ uint32) {
			m := output([]byte("some"))
			m[3]++
			g.answer(first, m)
		}, badAnswer},
		{"an error of absurd length", func(g guest, first, _ uint32) { g.answer(first, big) }, badAnswer},
		{"half an answer and the end", func(g guest, first, _ uint32) {
			g.say(frame(first, ttrpcframe.TypeResponse, output(make([]byte, 1000)))[:500])
			_ = g.Close()
		}, closed},
		{"the connection's end", func(g guest, _, _ uint32) { _ = g.Close() }, closed},
	} {
		t.Run(tc.name, func(t *testing.T) {
			c, library, g := connect(t)
			done := begin(t.Context(), c, &sink{room: 1 << 30})
			first, _ := g.asked()
			second, _ := g.asked()
			go tc.say(g, first, second)
			got := <-done
			if !tc.is(got.err) {
				t.Errorf("%d bytes, %v", got.n, got.err)
			}
			if len(c.flows) > 0 {
				t.Errorf("%d requests are remembered", len(c.flows))
			}
			if closed(got.err) {
				return
			}
			go func() {
				id, _ := g.asked()
				g.answer(id, nil)
			}()
			if err := library.Call(t.Context(), "test", "Echo", wrapperspb.Bytes(nil), &wrapperspb.BytesValue{}); err != nil {
				t.Errorf("the channel did not survive it: %v", err)
			}
		})
	}
}

func badAnswer(err error) bool { return errors.Is(err, ErrAnswer) }
func closed(err error) bool    { return errors.Is(err, ttrpc.ErrClosed) }

// An answer may have more in it than output, in any order, as protobuf has it.
func TestAnAnswerThatIsMadeDifferentlyIsUnderstoodAllTheSame(t *testing.T) {
	c, _, g := connect(t)
	to := &sink{room: 1 << 30}
	done := begin(t.Context(), c, to)
	ok, err := proto.Marshal(&ttrpc.Response{Status: status.New(codes.OK, "").Proto()})
	if err != nil {
		t.Fatal(err)
	}
	id, _ := g.asked()
	g.answer(id, append(output([]byte("some")), ok...))
	id, _ = g.asked()
	g.answer(id, ok)
	if got := <-done; got.err != nil || string(to.bytes()) != "some" {
		t.Errorf("%q, %v", to.bytes(), got.err)
	}
}

func TestCopyingEndsWithItsContextAndWhatComesLaterIsForgotten(t *testing.T) {
	c, library, g := connect(t)
	ctx, cancel := context.WithCancel(t.Context())
	to := &sink{room: 1 << 30}
	done := begin(ctx, c, to)
	first, _ := g.asked()
	g.asked()
	// Half of it is here, and the rest will come.
	answer := frame(first, ttrpcframe.TypeResponse, output(noise(100_000)))
	g.say(answer[:50_000])
	for len(to.bytes()) == 0 {
		time.Sleep(time.Millisecond)
	}
	cancel()
	got := <-done
	if !errors.Is(got.err, context.Canceled) {
		t.Errorf("error %v", got.err)
	}
	g.say(answer[50_000:])
	go func() {
		id, _ := g.asked()
		g.answer(id, nil)
	}()
	if err := library.Call(t.Context(), "test", "Echo", wrapperspb.Bytes(nil), &wrapperspb.BytesValue{}); err != nil {
		t.Error(err)
	}
	if n := len(to.bytes()); int64(n) != got.n {
		t.Errorf("%d bytes arrived, of which %d before the end", n, got.n)
	}
}

func TestASinksErrorIsTheCopys(t *testing.T) {
	c, _, g := connect(t)
	broken := errors.New("broken")
	done := begin(t.Context(), c, &sink{err: broken})
	id, _ := g.asked()
	g.answer(id, output([]byte("x")))
	if err := (<-done).err; err != broken {
		t.Errorf("error %v", err)
	}
}

func TestIdsAreNeverTheLibrarysAndNeverUsedTwice(t *testing.T) {
	c := Wrap(nil)
	c.nextID = 1<<32 - 3
	held := map[uint32]bool{}
	c.flows[firstID] = &flow{} // it still waits
	held[firstID] = true
	for range 10 {
		id := c.register(&flow{})
		if id < firstID || id%2 != 1 || held[id] {
			t.Errorf("id %d", id)
		}
		held[id] = true
	}
}
