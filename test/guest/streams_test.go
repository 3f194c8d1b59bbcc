package guest_test

import (
	"crypto/sha256"
	"fmt"
	"io"
	"strings"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"google.golang.org/grpc/codes"

	"github.com/katadirect/katadirect/pkg/agentproto"
)

// eachWay runs a test with reads of both sizes.
func eachWay(t *testing.T, test func(t *testing.T, piece uint32)) {
	t.Run("in small pieces", func(t *testing.T) { test(t, fewBytes) })
	t.Run("in large pieces", func(t *testing.T) { test(t, manyBytes) })
}

func TestOutputIsCompleteHoweverLarge(t *testing.T) {
	m := theMachine(t)
	eachWay(t, func(t *testing.T, piece uint32) {
		c := m.create(t, spec("head -c 20000000 /dev/urandom | tee /dev/stderr | sha256sum >/tmp/sum; cat /tmp/sum >&2; head -c 5000001 /dev/zero")).start()
		stderr := make(chan string, 1)
		go func() { stderr <- c.readAllBy(piece, c.id, m.agent.ReadStderr) }()
		out := c.readAllBy(piece, c.id, m.agent.ReadStdout)
		errOut := <-stderr
		if len(out) != 5000001 {
			t.Errorf("%d bytes on standard output", len(out))
		}
		const sumLine = sha256.Size*2 + len("  -\n")
		random, sum := errOut[:len(errOut)-sumLine], errOut[len(errOut)-sumLine:]
		if want := fmt.Sprintf("%x  -\n", sha256.Sum256([]byte(random))); sum != want || len(random) != 20000000 {
			t.Errorf("%d bytes on standard error with the sum %q, want %q", len(random), sum, want)
		}
		if status := c.wait(c.id); status != 0 {
			t.Errorf("status %d", status)
		}
	})
}

// Both streams at once, as a shim takes them: sent without being asked for, past the ttrpc library of both sides.
func TestMuchOutputArrivesInItsOrder(t *testing.T) {
	m := theMachine(t)
	if !m.agent.Features().Output {
		t.Fatal("the agent does not say that it sends output by itself")
	}
	// Digits show what is in the wrong place, and lines of all lengths do not end where pages do.
	c := m.create(t, spec("seq 1 50000 >/tmp/n; n() { for i in $(seq 30); do cat /tmp/n; done; }; n >&2 & n; wait")).start()
	errOut := make(chan string, 1)
	go func() { errOut <- c.pour(m.agent.Stderr(t.Context(), c.id, c.id)) }()
	wantCounts(t, "standard output", c.pour(m.agent.Stdout(t.Context(), c.id, c.id)), 30, 50000)
	wantCounts(t, "standard error", <-errOut, 30, 50000)
	if status := c.wait(c.id); status != 0 {
		t.Errorf("status %d", status)
	}
}

// A container whose log nobody reads waits, and neither another's output nor any other call does.
func TestOutputThatNobodyTakesHoldsUpNothingElse(t *testing.T) {
	const size = 30_000_000
	m := theMachine(t)
	c := m.running(t)
	stuck, flowing := newID("stuck"), newID("flowing")
	for _, id := range []string{stuck, flowing} {
		c.exec(id, spec(fmt.Sprintf("head -c %d /dev/zero", size)).Process)
	}
	sink := &stuckSink{gate: make(chan struct{})}
	copied := make(chan error, 1)
	go func() {
		_, err := m.agent.Stdout(t.Context(), c.id, stuck).WriteTo(sink)
		copied <- err
	}()
	calls := make(chan int)
	done := make(chan struct{})
	go func() {
		n := 0
		defer func() { calls <- n }()
		for ; ; n++ {
			if _, err := m.agent.StatsContainer(t.Context(), &agentproto.StatsContainerRequest{ContainerId: c.id}); err != nil {
				t.Error(err)
				return
			}
			select {
			case <-done:
				return
			default:
			}
		}
	}()
	if n := len(c.pour(m.agent.Stdout(t.Context(), c.id, flowing))); n != size {
		t.Errorf("%d bytes beside it", n)
	}
	close(done)
	if n := <-calls; n == 0 {
		t.Error("no call was answered meanwhile")
	}
	if status := c.wait(flowing); status != 0 {
		t.Errorf("status %d", status)
	}
	close(sink.gate)
	if err := <-copied; err != nil || sink.taken != size {
		t.Errorf("%d bytes in the end, %v", sink.taken, err)
	}
	if status := c.wait(stuck); status != 0 {
		t.Errorf("status %d", status)
	}
}

// stuckSink takes something at once, and everything else when its gate is opened.
type stuckSink struct {
	gate  chan struct{}
	taken int
}

func (s *stuckSink) TryWrite([]byte) int { return 0 }

func (s *stuckSink) Write(p []byte) (int, error) {
	if s.taken > 0 {
		<-s.gate
	}
	s.taken += len(p)
	return len(p), nil
}

// pour reads a stream to its end by way of something that takes a while.
func (c *containerIn) pour(from io.WriterTo) string {
	var to slowSink
	n, err := from.WriteTo(&to)
	if err != nil || n != int64(to.Len()) {
		c.t.Errorf("%d bytes, of which %d arrived, %v", n, to.Len(), err)
	}
	return to.String()
}

// slowSink is full now and then.
type slowSink struct {
	strings.Builder
	tries int
}

func (s *slowSink) TryWrite(p []byte) int {
	if s.tries++; s.tries%10 == 0 {
		p = p[:len(p)/2]
	}
	n, _ := s.Write(p)
	return n
}

// wantCounts wants lines that count from 1 to last, so many times.
func wantCounts(t *testing.T, stream, got string, times, last int) {
	t.Helper()
	lines := 0
	for line := range strings.Lines(got) {
		if want := fmt.Sprintln(lines%last + 1); line != want {
			t.Errorf("%s: line %d is %q, want %q", stream, lines, line, want)
			return
		}
		lines++
	}
	if lines != times*last {
		t.Errorf("%s: %d lines, want %d", stream, lines, times*last)
	}
}

func TestOutputThatNobodyHasReadSurvivesTheWait(t *testing.T) {
	m := theMachine(t)
	eachWay(t, func(t *testing.T, piece uint32) {
		c := m.running(t)
		id := newID("exec")
		c.exec(id, spec("head -c 300000 /dev/zero; exit 3").Process)
		if status := c.wait(id); status != 3 {
			t.Errorf("status %d", status)
		}
		if out := c.readAllBy(piece, id, m.agent.ReadStdout); len(out) != 300000 {
			t.Errorf("%d bytes after the wait", len(out))
		}
		_, err := m.agent.WaitProcess(t.Context(), &agentproto.WaitProcessRequest{ContainerId: c.id, ExecId: id})
		wantCode(t, err, codes.NotFound)
		_, err = m.agent.ReadStdout(t.Context(), &agentproto.ReadStreamRequest{ContainerId: c.id, ExecId: "nobody", Len: piece})
		wantCode(t, err, codes.NotFound)
	})
}

func TestStdinIsWrittenAndClosed(t *testing.T) {
	m := theMachine(t)
	c := m.running(t)
	id := newID("exec")
	c.exec(id, spec("sha256sum").Process)
	data := make([]byte, 3<<20)
	for i := range data {
		data[i] = byte(i * 7)
	}
	for rest := data; len(rest) > 0; {
		r, err := m.agent.WriteStdin(t.Context(), &agentproto.WriteStreamRequest{
			ContainerId: c.id, ExecId: id, Data: rest[:min(len(rest), 1<<20)],
		})
		if err != nil {
			t.Fatal(err)
		}
		rest = rest[r.GetLen():]
	}
	if _, err := m.agent.CloseStdin(t.Context(), &agentproto.CloseStdinRequest{ContainerId: c.id, ExecId: id}); err != nil {
		t.Fatal(err)
	}
	out, status := c.finish(id)
	if want := fmt.Sprintf("%x  -\n", sha256.Sum256(data)); status != 0 || out != want {
		t.Errorf("status %d, %q, want %q", status, out, want)
	}
}

func TestTerminal(t *testing.T) {
	m := theMachine(t)
	// One made with the container, and one with an exec.
	s := spec("stty size; test -t 0 && echo terminal; read line; echo got $line; stty size")
	s.Process.Terminal = true
	s.Process.ConsoleSize = &specs.Box{Height: 30, Width: 100}
	c := m.create(t, s).start()
	tryTerminal(t, c, c.id, "30 100")

	c = m.running(t)
	id := newID("exec")
	s.Process.ConsoleSize = nil
	c.exec(id, s.Process)
	tryTerminal(t, c, id, "stty: standard input") // it has no size yet
}

func tryTerminal(t *testing.T, c *containerIn, id, size string) {
	t.Helper()
	out := ""
	for !strings.Contains(out, "terminal\r\n") {
		r, err := c.m.agent.ReadStdout(t.Context(), &agentproto.ReadStreamRequest{ContainerId: c.id, ExecId: id, Len: 100})
		if err != nil || len(r.GetData()) == 0 {
			t.Fatalf("%q, then %v", out, err)
		}
		out += string(r.GetData())
	}
	_, err := c.m.agent.TtyWinResize(t.Context(), &agentproto.TtyWinResizeRequest{ContainerId: c.id, ExecId: id, Row: 40, Column: 132})
	if err != nil {
		t.Error(err)
	}
	_, err = c.m.agent.WriteStdin(t.Context(), &agentproto.WriteStreamRequest{ContainerId: c.id, ExecId: id, Data: []byte("a line\n")})
	if err != nil {
		t.Fatal(err)
	}
	out += c.readAll(id, c.m.agent.ReadStdout)
	if status := c.wait(id); status != 0 {
		t.Errorf("status %d", status)
	}
	if !strings.HasPrefix(out, size+"\r\n") || !strings.Contains(out, "got a line\r\n40 132\r\n") {
		t.Errorf("on the terminal: %q", out)
	}
}
