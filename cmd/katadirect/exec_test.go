package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/katadirect/katadirect/internal/console"
)

// guestProgram serves the debug console of a sandbox: play gets the request and the connection.
func (n node) guestProgram(t *testing.T, sandbox string, play func(console.Request, *console.Conn)) {
	t.Helper()
	lease, err := n.sandboxes().AcquireLease(sandbox)
	must(err)
	t.Cleanup(func() { lease.Close() })
	n.serve(t, sandbox, func(w http.ResponseWriter, r *http.Request) {
		var request console.Request
		must(json.NewDecoder(r.Body).Decode(&request))
		raw, buffered, err := http.NewResponseController(w).Hijack()
		must(err)
		defer raw.Close()
		fmt.Fprintf(raw, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: %s\r\n\r\n", console.Protocol)
		play(request, console.NewConn(raw, buffered.Reader))
	})
}

func TestExecInAScript(t *testing.T) {
	n := newNode(t)
	n.guestProgram(t, "s1", func(r console.Request, conn *console.Conn) {
		input := ""
		for {
			kind, data, err := conn.Receive()
			if err != nil || kind == console.Stdin && len(data) == 0 {
				break
			}
			input += string(data)
		}
		must(conn.Send(console.Stdout, fmt.Appendf(nil, "%q %v %s", r.Args, r.Terminal, input)), conn.Send(console.Stderr, []byte("err")),
			conn.SendJSON(console.Exit, 42))
	})
	cmd := n.command("exec", "s", "--", "cat", "-n")
	cmd.Args = []string{cmd.Args[0], "--root", n.records(), "--run", n.dir + "/run", "exec", "s", "--", "cat", "-n"}
	cmd.Stdin = strings.NewReader("typed")
	var stdout, stderr strings.Builder
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	_ = cmd.Run() // its status says it
	if got := cmd.ProcessState.ExitCode(); got != 42 || stdout.String() != `["cat" "-n"] false typed` || stderr.String() != "err" {
		t.Errorf("%d, %q, %q", got, stdout.String(), stderr.String())
	}
}

func TestExecThatFailsItselfSaysSoByItsStatus(t *testing.T) {
	n := newNode(t)
	for name, handler := range map[string]http.HandlerFunc{
		"refused": func(w http.ResponseWriter, _ *http.Request) {
			http.Error(w, "set debug_console_enabled = true", http.StatusForbidden)
		},
		"hung-up": func(w http.ResponseWriter, _ *http.Request) {
			raw, _, err := http.NewResponseController(w).Hijack()
			must(err)
			fmt.Fprintf(raw, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: %s\r\n\r\n", console.Protocol)
			raw.Close()
		},
	} {
		lease, err := n.sandboxes().AcquireLease(name)
		must(err)
		defer lease.Close()
		n.serve(t, name, handler)
		says := map[string]string{"refused": "set debug_console_enabled = true", "hung-up": "hung up"}[name]
		if got := n.run(t, "exec", name); got.status != exitExec || !strings.Contains(got.stderr, says) {
			t.Errorf("%s: %+v", name, got)
		}
	}
	if got := n.run(t, "exec", "nobody"); got.status != exitExec || !strings.Contains(got.stderr, "no living sandbox") {
		t.Errorf("%+v", got)
	}
}

// A person at a terminal: every key goes to the guest, the window's size too, and the terminal is as before at the end.
func TestExecOnATerminal(t *testing.T) {
	n := newNode(t)
	requests, keys, sizes := make(chan console.Request, 1), make(chan string, 1), make(chan console.Size, 1)
	n.guestProgram(t, "s1", func(r console.Request, conn *console.Conn) {
		requests <- r
		must(conn.Send(console.Stdout, []byte("prompt# ")))
		for typed := ""; ; {
			kind, data, err := conn.Receive()
			if err != nil {
				return
			}
			switch kind {
			case console.Stdin:
				if typed += string(data); strings.Contains(typed, "\x04") {
					keys <- typed
					must(conn.SendJSON(console.Exit, 0))
					return
				}
			case console.Resize:
				var size console.Size
				must(json.Unmarshal(data, &size))
				sizes <- size
			}
		}
	})
	master, slave := terminal(t)
	resize := func(rows, columns uint16) {
		t.Helper()
		must(unix.IoctlSetWinsize(int(master.Fd()), unix.TIOCSWINSZ, &unix.Winsize{Row: rows, Col: columns}))
	}
	resize(30, 100)
	before, err := unix.IoctlGetTermios(int(slave.Fd()), unix.TCGETS)
	must(err)
	cmd := n.command("exec", "s1")
	cmd.Env = append(os.Environ(), "TERM=xterm-test")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = slave, slave, slave
	cmd.SysProcAttr = &unix.SysProcAttr{Setsid: true, Setctty: true}
	must(cmd.Start())
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	context.AfterFunc(ctx, func() { _ = cmd.Process.Kill() })

	if r := receive(t, requests); !r.Terminal || r.Size != (console.Size{Rows: 30, Columns: 100}) || len(r.Env) != 1 || r.Env[0] != "TERM=xterm-test" {
		t.Errorf("request %+v", r)
	}
	if prompt, err := bufio.NewReader(master).ReadString('#'); err != nil || prompt != "prompt#" {
		t.Errorf("prompt %q, %v", prompt, err)
	}
	resize(31, 101)
	if size := receive(t, sizes); size != (console.Size{Rows: 31, Columns: 101}) {
		t.Errorf("size %+v", size)
	}
	if _, err := io.WriteString(master, "ls\r\x03\x1a\x04"); err != nil {
		t.Fatal(err)
	}
	if typed := receive(t, keys); typed != "ls\r\x03\x1a\x04" {
		t.Errorf("the guest got %q", typed)
	}
	must(cmd.Wait())
	if after, err := unix.IoctlGetTermios(int(slave.Fd()), unix.TCGETS); err != nil || *after != *before {
		t.Errorf("the terminal is left as %+v, %v", after, err)
	}
}

func receive[T any](t *testing.T, from <-chan T) (got T) {
	t.Helper()
	select {
	case got = <-from:
	case <-time.After(30 * time.Second):
		t.Fatal("nothing came")
	}
	return got
}

// terminal makes a pseudoterminal, see pty(7).
func terminal(t *testing.T) (master, slave *os.File) {
	t.Helper()
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	must(err)
	t.Cleanup(func() { master.Close() })
	must(unix.IoctlSetPointerInt(int(master.Fd()), unix.TIOCSPTLCK, 0))
	number, err := unix.IoctlGetInt(int(master.Fd()), unix.TIOCGPTN)
	must(err)
	slave, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", number), os.O_RDWR|unix.O_NOCTTY, 0)
	must(err)
	t.Cleanup(func() { slave.Close() })
	return master, slave
}
