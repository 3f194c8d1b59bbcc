package console

import (
	"bufio"
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/katadirect/katadirect/pkg/agent/reaper"
)

const patience = 30 * time.Second

// theReaper is one for all tests: it waits for every child of the process.
var theReaper *reaper.Reaper

func TestMain(m *testing.M) {
	slog.SetDefault(slog.New(slog.DiscardHandler))
	theReaper = reaper.New()
	os.Exit(m.Run())
}

func newConsole(t *testing.T) *Console {
	t.Helper()
	cgroups, err := os.MkdirTemp(cgroup2(t), "katadirect-console-")
	if err != nil {
		t.Fatal(err)
	}
	c := &Console{Reaper: theReaper, Shell: []string{"/bin/sh"}, Cgroups: cgroups}
	t.Cleanup(func() {
		c.CloseAll()
		if err := unix.Rmdir(cgroups); err != nil {
			t.Errorf("a program's cgroup is left: %v", err)
		}
	})
	return c
}

// cgroup2 is where this host has that file system.
func cgroup2(t *testing.T) string {
	t.Helper()
	for _, path := range []string{"/sys/fs/cgroup", "/sys/fs/cgroup/unified"} {
		var fs unix.Statfs_t
		if unix.Statfs(path, &fs) == nil && fs.Type == unix.CGROUP2_SUPER_MAGIC {
			return path
		}
	}
	t.Fatal("this host has no cgroup2 file system")
	return ""
}

// finish reads a program's output to its end, and its status.
func finish(t *testing.T, c *Console, id uint64) (stdout, stderr string, status int) {
	t.Helper()
	p, err := c.Program(id)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	all := func(read func(context.Context, int) ([]byte, error)) string {
		var b strings.Builder
		for {
			data, err := read(ctx, 4096)
			if err != nil {
				t.Fatal(err)
			}
			if len(data) == 0 {
				return b.String()
			}
			b.Write(data)
		}
	}
	stdout, stderr = all(p.ReadStdout), all(p.ReadStderr)
	if status, err = c.Wait(ctx, id); err != nil {
		t.Fatal(err)
	}
	return stdout, stderr, status
}

func TestAProgramHasItsStreamsAndItsStatus(t *testing.T) {
	c := newConsole(t)
	id, err := c.Open(Request{Args: []string{"sh", "-c", "cat; echo err >&2; echo $X; exit 7"}, Env: []string{"X=y"}})
	if err != nil {
		t.Fatal(err)
	}
	p, err := c.Program(id)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := p.WriteStdin(t.Context(), []byte("in\n")); err != nil {
		t.Fatal(err)
	}
	if err := p.CloseStdin(); err != nil {
		t.Fatal(err)
	}
	if out, errOut, status := finish(t, c, id); out != "in\ny\n" || errOut != "err\n" || status != 7 {
		t.Errorf("%q, %q, %d", out, errOut, status)
	}
	c.Close(id)
	if _, err := c.Program(id); !errors.Is(err, ErrNone) {
		t.Errorf("after Close: %v", err)
	}
}

func TestATerminalIsTheProgramsOwnAndHasItsSize(t *testing.T) {
	c := newConsole(t)
	id, err := c.Open(Request{Args: []string{"sh", "-c", "test -t 0 && test -t 2 && stty size </dev/tty"}, Terminal: true, Rows: 33, Columns: 77})
	if err != nil {
		t.Fatal(err)
	}
	if out, _, status := finish(t, c, id); out != "33 77\r\n" || status != 0 {
		t.Errorf("%q, %d", out, status)
	}
}

func TestTypingControlCInterrupts(t *testing.T) {
	c := newConsole(t)
	id, err := c.Open(Request{Args: []string{"sh", "-c", "trap 'exit 3' INT; echo ready; while :; do sleep 0.1; done"}, Terminal: true})
	if err != nil {
		t.Fatal(err)
	}
	p, err := c.Program(id)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := p.ReadStdout(t.Context(), 100); err != nil { // it is ready
		t.Fatal(err)
	}
	if _, err := p.WriteStdin(t.Context(), []byte{3}); err != nil {
		t.Fatal(err)
	}
	if _, _, status := finish(t, c, id); status != 3 {
		t.Errorf("status %d", status)
	}
}

func TestCloseKillsAllThatWasStarted(t *testing.T) {
	for name, script := range map[string]string{
		"while the program runs":        "sleep 1000 & echo $!; wait",
		"after the program":             "sleep 1000 & echo $!",
		"in a session of its own":       "setsid sleep 1000 & echo $!; wait",
		"in one of its own, afterwards": "setsid sleep 1000 & echo $!; sleep 0.2",
	} {
		t.Run(name, func(t *testing.T) {
			c := newConsole(t)
			id, err := c.Open(Request{Args: []string{"sh", "-c", script}})
			if err != nil {
				t.Fatal(err)
			}
			p, err := c.Program(id)
			if err != nil {
				t.Fatal(err)
			}
			line, err := p.ReadStdout(t.Context(), 100)
			if err != nil {
				t.Fatal(err)
			}
			job, err := strconv.Atoi(strings.TrimSpace(string(line)))
			if err != nil {
				t.Fatal(err)
			}
			if !strings.HasSuffix(script, "wait") {
				if _, err := c.Wait(t.Context(), id); err != nil {
					t.Fatal(err)
				}
			}
			if err := unix.Kill(job, 0); err != nil {
				t.Fatalf("the job has ended before: %v", err)
			}
			c.Close(id)
			for deadline := time.Now().Add(patience); unix.Kill(job, 0) == nil; time.Sleep(10 * time.Millisecond) {
				if time.Now().After(deadline) {
					t.Fatal("it still runs")
				}
			}
		})
	}
}

func TestWhatCannotBeStartedIsSaidAndCostsNothing(t *testing.T) {
	c := newConsole(t)
	if _, err := c.Open(Request{Args: []string{"no-such-program"}}); !errors.Is(err, ErrStart) || !strings.Contains(err.Error(), "--debug") {
		t.Errorf("%v", err)
	}
	if _, err := c.Open(Request{Args: []string{"/"}, Terminal: true}); !errors.Is(err, ErrStart) {
		t.Errorf("%v", err)
	}
	c.Busybox = "/bin/echo"
	id, err := c.Open(Request{Args: []string{"no-such-program", "a"}})
	if err != nil {
		t.Fatal(err)
	}
	if out, _, _ := finish(t, c, id); out != "no-such-program a\n" {
		t.Errorf("busybox got %q", out)
	}
	c.Close(id)
	for range most {
		if _, err := c.Open(Request{Args: []string{"cat"}}); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := c.Open(Request{}); !errors.Is(err, ErrMany) {
		t.Errorf("one more: %v", err)
	}
	c.CloseAll()
	if _, err := c.Open(Request{Args: []string{"true"}}); err != nil {
		t.Errorf("after all were closed: %v", err)
	}
}

// Kata's own tool speaks no protocol: it types, and prints what comes.
func TestKatasToolGetsAShell(t *testing.T) {
	c := newConsole(t)
	listener, err := net.Listen("unix", filepath.Join(t.TempDir(), "s"))
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- c.Serve(t.Context(), listener) }()
	conn, err := net.Dial("unix", listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	if err := conn.SetDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(conn, "stty -echo; echo sum $((40+2)); exit\n"); err != nil {
		t.Fatal(err)
	}
	seen := false
	for lines := bufio.NewScanner(conn); lines.Scan(); {
		seen = seen || strings.Contains(lines.Text(), "sum 42")
	}
	if !seen {
		t.Error("the shell did not answer")
	}
	conn.Close()
	if conn, err = net.Dial("unix", listener.Addr().String()); err != nil {
		t.Fatal(err)
	}
	conn.Close() // at once: nothing may be left
	listener.Close()
	select {
	case err := <-served:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(patience):
		t.Fatal("shells are left")
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.programs) > 0 {
		t.Errorf("%d programs are left", len(c.programs))
	}
}
