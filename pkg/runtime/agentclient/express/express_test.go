package express

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
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

// asked is a frame of the host's.
type asked struct {
	id          uint32
	kind, flags byte
	message     []byte
}

// asked reads a frame.
func (g guest) asked() asked {
	g.t.Helper()
	a, err := readFrame(g)
	if err != nil {
		g.t.Errorf("a frame that is none: %v", err)
	}
	return a
}

func readFrame(from io.Reader) (a asked, err error) {
	head := make([]byte, ttrpcframe.HeadSize)
	if _, err := io.ReadFull(from, head); err != nil {
		return a, err
	}
	a = asked{binary.BigEndian.Uint32(head[4:]), head[8], head[9], make([]byte, binary.BigEndian.Uint32(head))}
	_, err = io.ReadFull(from, a.message)
	return a, err
}

// opened reads the request for a stream.
func (g guest) opened() (id uint32, req *agentproto.OutputRequest) {
	g.t.Helper()
	a := g.asked()
	var call ttrpc.Request
	req = &agentproto.OutputRequest{}
	err := errors.Join(proto.Unmarshal(a.message, &call), proto.Unmarshal(call.GetPayload(), req))
	if err != nil || a.kind != ttrpcframe.TypeRequest || a.flags != ttrpcframe.FlagOpen || call.TimeoutNano != 0 ||
		call.GetService() != "katadirect.output.v1.Output" || call.GetMethod() != "Stream" {
		g.t.Errorf("opened by type %d, flags %d, %v, %v", a.kind, a.flags, &call, err)
	}
	return a.id, req
}

// credit reads what is given on a stream that is open.
func (g guest) credit(id uint32) int {
	g.t.Helper()
	a := g.asked()
	var req agentproto.OutputRequest
	err := proto.Unmarshal(a.message, &req)
	if err != nil || a.id != id || a.kind != ttrpcframe.TypeData || a.flags != 0 || req.GetCredit() == 0 {
		g.t.Errorf("credit as frame %+v, %v, %v", a, &req, err)
	}
	return int(req.GetCredit())
}

// output is a frame with data.
func output(id uint32, data []byte) []byte {
	m, _ := proto.Marshal(&agentproto.OutputData{Data: data})
	return frame(id, ttrpcframe.TypeData, 0, m)
}

func end(id uint32) []byte {
	return frame(id, ttrpcframe.TypeData, ttrpcframe.FlagClosed|ttrpcframe.FlagNoData, nil)
}

func frame(id uint32, kind, flags byte, message []byte) []byte {
	return append(ttrpcframe.Head(len(message), id, kind, flags), message...)
}

func failure(code codes.Code, text string) []byte {
	m, _ := proto.Marshal(&ttrpc.Response{Status: status.New(code, text).Proto()})
	return m
}

func (g guest) say(b ...[]byte) {
	g.t.Helper()
	if _, err := g.Write(bytes.Join(b, nil)); err != nil {
		g.t.Error(err)
	}
}

// echo answers a call of the library's, which is next.
func (g guest) echo() {
	g.t.Helper()
	a := g.asked()
	if a.kind != ttrpcframe.TypeRequest || a.id >= firstID {
		g.t.Errorf("not the library's: %+v", a)
	}
	g.say(frame(a.id, ttrpcframe.TypeResponse, 0, nil))
}

// connect returns both ends; the library has its own, with which it calls.
func connect(t testing.TB) (*Conn, *ttrpc.Client, guest) {
	here, there := pair(t)
	c := Wrap(here)
	library := ttrpc.NewClient(c)
	t.Cleanup(func() { _ = library.Close() })
	return c, library, guest{t, there}
}

var stream = Stream{Container: "c", Exec: "e"}

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
		n, err := c.Copy(ctx, stream, to)
		done <- copied{n, err}
	}()
	return done
}

func noise(n int) []byte {
	data := make([]byte, n)
	_, _ = rand.NewChaCha8([32]byte{1}).Read(data)
	return data
}

func TestAStreamIsPassedOnToItsEndWithoutBeingAskedFor(t *testing.T) {
	c, _, g := connect(t)
	to := &sink{room: 1 << 30}
	done := begin(t.Context(), c, to)
	id, req := g.opened()
	if req.GetContainerId() != "c" || req.GetExecId() != "e" || req.GetStderr() {
		t.Errorf("asked %v", req)
	}
	credit := int(req.GetCredit())
	var want []byte
	for round := 0; round < 3; {
		for _, size := range []int{1 << 20, 1, 100_000, 128 << 10, 127, 128, 16383, 16384, 3} {
			data := noise(min(size, credit))
			want = append(want, data...)
			g.say(output(id, data))
			if credit -= len(data); credit <= wide.low {
				credit += g.credit(id)
				round++
			}
			if credit > wide.full {
				t.Fatalf("a credit of %d", credit)
			}
		}
	}
	g.say(end(id))
	if got := <-done; got.err != nil || got.n != int64(len(want)) || !bytes.Equal(to.bytes(), want) {
		t.Errorf("%d bytes of %d, %v", got.n, len(want), got.err)
	}
}

// Whatever pieces the channel brings it in.
func TestFramesArePutTogetherHoweverTheyArrive(t *testing.T) {
	data := noise(700)
	for _, size := range []int{1, 3, 10, 17, 700} {
		c, _, g := connect(t)
		to := &sink{room: 1 << 30}
		done := begin(t.Context(), c, to)
		id, _ := g.opened()
		all := append(output(id, data), end(id)...)
		for len(all) > 0 {
			n := min(size, len(all))
			g.say(all[:n])
			all = all[n:]
			time.Sleep(10 * time.Microsecond)
		}
		if got := <-done; got.err != nil || !bytes.Equal(to.bytes(), data) {
			t.Errorf("in pieces of %d: %d bytes, %v", size, got.n, got.err)
		}
	}
}

func TestTheLibraryGetsItsAnswersInBetween(t *testing.T) {
	const pieces, pieceBytes = 50, 300_000
	c, library, g := connect(t)
	to := &sink{room: 1 << 30}
	done := begin(t.Context(), c, to)
	id, req := g.opened()
	go func() {
		// Echo what is the library's, and send what there is credit for.
		credit, sent := int(req.GetCredit()), 0
		for {
			for ; sent < pieces && credit >= pieceBytes; sent++ {
				g.say(output(id, noise(pieceBytes)))
				credit -= pieceBytes
			}
			if sent == pieces {
				g.say(end(id))
				sent++
			}
			a, err := readFrame(g)
			if err != nil {
				return // it has hung up
			}
			if a.id == id {
				var more agentproto.OutputRequest
				_ = proto.Unmarshal(a.message, &more)
				credit += int(more.GetCredit())
				continue
			}
			var call ttrpc.Request
			_ = proto.Unmarshal(a.message, &call)
			m, _ := proto.Marshal(&ttrpc.Response{Payload: call.Payload})
			g.say(frame(a.id, ttrpcframe.TypeResponse, 0, m))
		}
	}()
	for _, size := range []int{0, 1, 4086, 100_000, 3, 1 << 20, 4096} {
		var got wrapperspb.BytesValue
		want := noise(size)
		if err := library.Call(t.Context(), "test", "Echo", wrapperspb.Bytes(want), &got); err != nil || !bytes.Equal(got.Value, want) {
			t.Errorf("%d bytes came back as %d, %v", size, len(got.Value), err)
		}
	}
	if got := <-done; got.err != nil || got.n != pieces*pieceBytes || !bytes.Equal(to.bytes(), bytes.Repeat(noise(pieceBytes), pieces)) {
		t.Errorf("%d bytes, %v", got.n, got.err)
	}
}

func callEcho(t *testing.T, library *ttrpc.Client, g guest) {
	t.Helper()
	echoed := make(chan error, 1)
	go func() {
		echoed <- library.Call(t.Context(), "test", "Echo", wrapperspb.Bytes(nil), &wrapperspb.BytesValue{})
	}()
	g.echo()
	if err := <-echoed; err != nil {
		t.Error(err)
	}
}

// What a reader does not take is kept here, as much as there was credit for; the channel goes on for everybody else.
func TestASinkThatTakesNothingHoldsUpItsStreamAlone(t *testing.T) {
	c, library, g := connect(t)
	stuck := &sink{room: 1000, gate: make(chan struct{})}
	done := begin(t.Context(), c, stuck)
	id, req := g.opened()
	want := noise(int(req.GetCredit()))
	for rest := want; len(rest) > 0; {
		n := min(len(rest), 700_000)
		g.say(output(id, rest[:n]))
		rest = rest[n:]
	}
	callEcho(t, library, g) // and no credit before it
	other := &sink{room: 1 << 30}
	otherDone := begin(t.Context(), c, other)
	otherID, _ := g.opened()
	g.say(output(otherID, want[:100]), end(otherID))
	if got := <-otherDone; got.err != nil || !bytes.Equal(other.bytes(), want[:100]) {
		t.Errorf("the other: %d bytes, %v", got.n, got.err)
	}
	close(stuck.gate)
	// As long as it is slow it gets less.
	if credit := g.credit(id); credit != narrow.full {
		t.Errorf("a credit of %d", credit)
	}
	g.say(output(id, []byte("end")), end(id))
	if got := <-done; got.err != nil || !bytes.Equal(stuck.bytes(), append(want, "end"...)) {
		t.Errorf("%d bytes, %v", got.n, got.err)
	}
}

func TestHowAStreamEnds(t *testing.T) {
	big := failure(codes.Internal, string(bytes.Repeat([]byte("x"), failureLimit)))
	longer := output(0, []byte("some"))
	longer[ttrpcframe.HeadSize+1]++
	for _, tc := range []struct {
		name string
		say  func(g guest, id uint32)
		is   func(error) bool
		over bool // the guest has ended it
	}{
		{"the agent's own error", func(g guest, id uint32) {
			g.say(frame(id, ttrpcframe.TypeResponse, 0, failure(codes.NotFound, "no such process")))
		}, func(err error) bool { return status.Code(err) == codes.NotFound }, true},
		{"an answer that is no failure", func(g guest, id uint32) { g.say(frame(id, ttrpcframe.TypeResponse, 0, nil)) }, ended, true},
		{"the end", func(g guest, id uint32) { g.say(end(id)) }, ended, true},
		{"more than there is credit for", func(g guest, id uint32) { g.say(output(id, make([]byte, wide.full+1))) }, badAnswer, false},
		{"more, bit by bit", func(g guest, id uint32) {
			for range 4 {
				g.say(output(id, make([]byte, wide.full/3)))
			}
		}, badAnswer, false},
		{"nothing", func(g guest, id uint32) { g.say(output(id, nil)) }, badAnswer, false},
		{"a request", func(g guest, id uint32) { g.say(frame(id, ttrpcframe.TypeRequest, 0, nil)) }, badAnswer, false},
		{"no protobuf", func(g guest, id uint32) { g.say(frame(id, ttrpcframe.TypeData, 0, []byte{0xff, 0xff, 0xff})) }, badAnswer, false},
		{"a length within that is too large", func(g guest, id uint32) {
			m := bytes.Clone(longer)
			binary.BigEndian.PutUint32(m[4:], id)
			g.say(m)
		}, badAnswer, false},
		{"something else beside it", func(g guest, id uint32) {
			m := output(id, []byte("some"))
			binary.BigEndian.PutUint32(m, uint32(len(m)-ttrpcframe.HeadSize+2))
			g.say(m, []byte{16, 1})
		}, badAnswer, false},
		{"an error of absurd length", func(g guest, id uint32) { g.say(frame(id, ttrpcframe.TypeResponse, 0, big)) }, badAnswer, true},
		{"half a frame and the end", func(g guest, id uint32) {
			g.say(output(id, make([]byte, 1000))[:500])
			_ = g.Close()
		}, closed, false},
		{"the connection's end", func(g guest, _ uint32) { _ = g.Close() }, closed, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			c, library, g := connect(t)
			done := begin(t.Context(), c, &sink{})
			id, req := g.opened()
			if int(req.GetCredit()) != wide.full {
				t.Fatalf("a credit of %d", req.GetCredit())
			}
			said := make(chan struct{})
			go func() {
				defer close(said)
				tc.say(g, id)
			}()
			got := <-done
			<-said
			if !tc.is(got.err) {
				t.Errorf("%d bytes, %v", got.n, got.err)
			}
			c.mu.Lock()
			if len(c.flows) > 0 {
				t.Errorf("%d streams are remembered", len(c.flows))
			}
			c.mu.Unlock()
			if closed(got.err) {
				return
			}
			if !tc.over {
				g.wantClosed(id)
			}
			callEcho(t, library, g)
		})
	}
}

// wantClosed wants the guest to hear that a stream is not wanted any more. It may have got some credit before.
func (g guest) wantClosed(id uint32) {
	g.t.Helper()
	for {
		a := g.asked()
		if a.id == id && a.kind == ttrpcframe.TypeData && a.flags == 0 {
			continue
		}
		if a.id != id || a.kind != ttrpcframe.TypeData || a.flags != ttrpcframe.FlagClosed|ttrpcframe.FlagNoData {
			g.t.Errorf("instead of the stream's close %+v", a)
		}
		return
	}
}

func ended(err error) bool     { return err == nil }
func badAnswer(err error) bool { return errors.Is(err, ErrAnswer) }
func closed(err error) bool    { return errors.Is(err, ttrpc.ErrClosed) }

func TestCopyingEndsWithItsContextAndWhatComesLaterIsForgotten(t *testing.T) {
	c, library, g := connect(t)
	ctx, cancel := context.WithCancel(t.Context())
	to := &sink{room: 1 << 30}
	done := begin(ctx, c, to)
	id, _ := g.opened()
	// Half of it is here, and the rest will come.
	all := output(id, noise(200_000))
	g.say(all[:100_000])
	for len(to.bytes()) == 0 {
		time.Sleep(time.Millisecond)
	}
	cancel()
	got := <-done
	if !errors.Is(got.err, context.Canceled) {
		t.Errorf("error %v", got.err)
	}
	g.wantClosed(id)
	g.say(all[100_000:], output(id, noise(10)))
	callEcho(t, library, g)
	if n := len(to.bytes()); int64(n) != got.n {
		t.Errorf("%d bytes arrived, of which %d before the end", n, got.n)
	}
}

func TestASinksErrorIsTheCopys(t *testing.T) {
	c, _, g := connect(t)
	broken := errors.New("broken")
	done := begin(t.Context(), c, &sink{err: broken})
	id, _ := g.opened()
	g.say(output(id, []byte("x")))
	if err := (<-done).err; err != broken {
		t.Errorf("error %v", err)
	}
	g.wantClosed(id)
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
