package management

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/katadirect/katadirect/internal/console"
)

// program is a guest's: it prints in capitals what is typed, until that ends.
type program struct {
	in     *io.PipeReader
	typed  *io.PipeWriter
	out    *io.PipeReader
	print  *io.PipeWriter
	closed chan struct{}
	close  sync.Once
	size   chan console.Size
}

func newProgram() *program {
	p := &program{closed: make(chan struct{}), size: make(chan console.Size, 1)}
	p.in, p.typed = io.Pipe()
	p.out, p.print = io.Pipe()
	go func() {
		buffer := make([]byte, 1<<20)
		for {
			n, err := p.in.Read(buffer)
			if n > 0 {
				if _, err := p.print.Write(bytes.ToUpper(buffer[:n])); err != nil {
					return
				}
			}
			if err != nil {
				p.print.Close()
				return
			}
		}
	}()
	return p
}

func (p *program) Stdin() io.WriteCloser                             { return p.typed }
func (p *program) Stdout() io.Reader                                 { return p.out }
func (p *program) Stderr() io.Reader                                 { return strings.NewReader("complaint") }
func (p *program) Resize(_ context.Context, size console.Size) error { p.size <- size; return nil }
func (p *program) Wait(context.Context) (int, error)                 { return 42, nil }
func (p *program) Close(context.Context) error {
	p.close.Do(func() { close(p.closed); p.in.CloseWithError(io.ErrClosedPipe); p.out.CloseWithError(io.ErrClosedPipe) })
	return nil
}

func (p *program) isClosed(t *testing.T) {
	t.Helper()
	select {
	case <-p.closed:
	case <-time.After(20 * time.Second):
		t.Error("the program was not ended")
	}
}

func TestAConsoleCarriesEverythingBothWaysAndTheStatus(t *testing.T) {
	p := newProgram()
	_, sandboxes := serve(t, &sandbox{console: p})
	conn, err := console.Dial(t.Context(), sandboxes.SocketPath("s1"), console.Request{Args: []string{"x"}})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	want := bytes.Repeat([]byte("abc"), 300_000)
	go func() {
		_ = conn.SendJSON(console.Resize, console.Size{Rows: 5, Columns: 6})
		_ = conn.Send(console.Stdin, want)
		_ = conn.Send(console.Stdin, nil)
	}()
	got := map[console.Kind][]byte{}
	for {
		kind, data, err := conn.Receive()
		if err != nil {
			t.Fatal(err)
		}
		got[kind] = append(got[kind], data...)
		if kind == console.Exit || kind == console.Failure {
			break
		}
	}
	if !bytes.Equal(got[console.Stdout], bytes.ToUpper(want)) || string(got[console.Stderr]) != "complaint" || string(got[console.Exit]) != "42" {
		t.Errorf("%d bytes, %q, %q, %q", len(got[console.Stdout]), got[console.Stderr], got[console.Exit], got[console.Failure])
	}
	if size := <-p.size; size != (console.Size{Rows: 5, Columns: 6}) {
		t.Errorf("size %v", size)
	}
	p.isClosed(t)
}

func TestAToolThatHangsUpEndsItsProgram(t *testing.T) {
	p := newProgram()
	_, sandboxes := serve(t, &sandbox{console: p})
	conn, err := console.Dial(t.Context(), sandboxes.SocketPath("s1"), console.Request{})
	if err != nil {
		t.Fatal(err)
	}
	conn.Close()
	p.isClosed(t)
}

func TestAToolThatHangsUpEndsAProgramThatDoesNotRead(t *testing.T) {
	p := newProgram() // nobody reads what it prints, so it reads no further
	p.out, _ = io.Pipe()
	_, sandboxes := serve(t, &sandbox{console: p})
	conn, err := console.Dial(t.Context(), sandboxes.SocketPath("s1"), console.Request{})
	if err != nil {
		t.Fatal(err)
	}
	sent := make(chan error, 1)
	go func() { sent <- conn.Send(console.Stdin, make([]byte, 8<<20)) }()
	select {
	case err := <-sent:
		t.Fatalf("all of it went somewhere: %v", err)
	case <-time.After(300 * time.Millisecond):
	}
	conn.Close()
	p.isClosed(t)
}

func TestConsolesLeaveRoomForOthersAndEndWithTheServer(t *testing.T) {
	b := &sandbox{device: "/dev/v"}
	path := filepath.Join(t.TempDir(), "s")
	s, err := Serve(path, b, Options{Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	dial := func() (*console.Conn, *program, error) {
		p := newProgram()
		b.console = p
		conn, err := console.Dial(t.Context(), path, console.Request{})
		return conn, p, err
	}
	var programs []*program
	for range maxConsoles {
		conn, p, err := dial()
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		programs = append(programs, p)
	}
	var refused *console.RefusedError
	if _, _, err := dial(); !errors.As(err, &refused) || refused.Code != http.StatusServiceUnavailable {
		t.Errorf("one more: %v", err)
	}
	conn, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := io.WriteString(conn, "GET /agent-url HTTP/1.0\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	if answer, err := io.ReadAll(conn); err != nil || !strings.Contains(string(answer), "vsock://") {
		t.Errorf("beside them: %q, %v", answer, err)
	}
	if err := s.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, p := range programs {
		p.isClosed(t)
	}
}

func TestASandboxWithoutAConsoleSaysWhichKeyToSet(t *testing.T) {
	b := &sandbox{}
	client, sandboxes := serve(t, b)
	for want, err := range map[int]error{403: ErrNoConsole, 501: ErrCannotConsole, 500: errors.New("trouble")} {
		b.fail = err
		var refused *console.RefusedError
		if _, got := console.Dial(t.Context(), sandboxes.SocketPath("s1"), console.Request{}); !errors.As(got, &refused) ||
			refused.Code != want || refused.Message != err.Error() {
			t.Errorf("%v: %v", err, got)
		}
	}
	if !strings.Contains(ErrNoConsole.Error(), "debug_console_enabled = true") {
		t.Error(ErrNoConsole)
	}
	if status, _ := ask(t, client, http.MethodPost, console.Path, "{}"); status != http.StatusUpgradeRequired {
		t.Errorf("without an upgrade: status %d", status)
	}
}
