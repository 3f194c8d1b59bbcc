package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"
	"golang.org/x/term"

	"github.com/katadirect/katadirect/internal/console"
)

// exitExec is the status of exec when it has failed itself; every other is the program's.
const exitExec = 125

// programStatus is the exit status of what ran in the guest.
type programStatus int

func (s programStatus) Error() string { return fmt.Sprintf("exit status %d", int(s)) }

// execError is a failure of exec itself.
type execError struct{ error }

func (e execError) Unwrap() error { return e.error }

func newExec(h *host) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "exec SANDBOX [-- COMMAND…]",
		Short: "Run a shell, or a command, in a sandbox's guest itself",
		Long: fmt.Sprintf(`Runs a program in the virtual machine of a pod, outside of all its containers, as root: for looking at mounts, disks,
network and the agent's processes when something is wrong. The sandbox is named by its id or the beginning of it. The
pod must have been made with debug_console_enabled = true in [agent.kata] of configuration.toml, and a shell is in guest
images made with katadirect guest build --debug.

With a terminal on standard input and output the program gets one too; otherwise it gets pipes, and is fit for scripts.
The exit status is the program's, and %d when there is none.`, exitExec),
		Example: `  katadirect exec 3f2a
  katadirect exec 3f2a -- cat /proc/uptime`,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 || cmd.ArgsLenAtDash() != -1 && cmd.ArgsLenAtDash() != 1 ||
				cmd.ArgsLenAtDash() == -1 && len(args) > 1 {
				return errors.New("exec needs one sandbox, and the command after --")
			}
			return nil
		},
	}
	tty := cmd.Flags().BoolP("tty", "t", false, "give the program a terminal in any case")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		id, err := h.sandboxes().Find(args[0])
		if err != nil {
			return execError{err}
		}
		e := execution{
			socket: h.sandboxes().SocketPath(id), args: args[1:],
			stdin: cmd.InOrStdin(), stdout: cmd.OutOrStdout(), stderr: cmd.ErrOrStderr(),
		}
		e.terminal = terminalOf(e.stdin, e.stdout)
		e.wantTerminal = *tty || e.terminal != nil
		status, err := e.run(cmd.Context())
		if err != nil {
			return execError{err}
		}
		if status != 0 {
			return programStatus(status)
		}
		return nil
	}
	return cmd
}

// terminalOf is the terminal that the program is used on, nil if there is none on both sides.
func terminalOf(in io.Reader, out io.Writer) *os.File {
	stdin, isFile := in.(*os.File)
	stdout, isFileToo := out.(*os.File)
	if isFile && isFileToo && term.IsTerminal(int(stdin.Fd())) && term.IsTerminal(int(stdout.Fd())) {
		return stdin
	}
	return nil
}

// execution is one program in a guest, with what it is tied to here.
type execution struct {
	socket         string
	args           []string
	stdin          io.Reader
	stdout, stderr io.Writer
	terminal       *os.File // nil without one
	wantTerminal   bool
}

func (e execution) run(ctx context.Context) (status int, err error) {
	request := console.Request{Args: e.args, Terminal: e.wantTerminal}
	if e.wantTerminal {
		request.Env, request.Size = []string{"TERM=" + orValue(os.Getenv("TERM"), "vt100")}, e.size()
	}
	conn, err := console.Dial(ctx, e.socket, request)
	if err != nil {
		return 0, err
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() }) // the shim ends the program then
	defer stop()
	restore, err := e.raw(conn)
	if err != nil {
		return 0, err
	}
	defer restore()
	// It ends with the process: nothing can wake a read from a terminal.
	go func() {
		_, err := io.Copy(conn.Writer(console.Stdin), e.stdin)
		if err == nil {
			_ = conn.Send(console.Stdin, nil)
		}
	}()
	status, err = e.print(conn)
	if err != nil && ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	return status, err
}

// print prints what comes until the program has ended.
func (e execution) print(conn *console.Conn) (status int, err error) {
	for {
		kind, data, err := conn.Receive()
		if errors.Is(err, io.EOF) || errors.Is(err, unix.ECONNRESET) { // reset: it has not read what was typed last
			return 0, errors.New("the sandbox's shim has hung up")
		}
		if err != nil {
			return 0, err
		}
		switch kind {
		case console.Stdout:
			_, err = e.stdout.Write(data)
		case console.Stderr:
			_, err = e.stderr.Write(data)
		case console.Exit:
			return status, json.Unmarshal(data, &status)
		case console.Failure:
			return 0, errors.New(printable(string(data)))
		}
		if err != nil {
			return 0, err
		}
	}
}

// raw hands every key to the program, and its window's size whenever that changes.
func (e execution) raw(conn *console.Conn) (restore func(), err error) {
	if e.terminal == nil {
		return func() {}, nil
	}
	fd := int(e.terminal.Fd())
	before, err := term.MakeRaw(fd)
	if err != nil {
		return nil, err
	}
	resized := make(chan os.Signal, 1)
	signal.Notify(resized, syscall.SIGWINCH)
	go func() {
		for range resized {
			_ = conn.SendJSON(console.Resize, e.size())
		}
	}()
	return func() {
		signal.Stop(resized)
		close(resized)
		_ = term.Restore(fd, before)
	}, nil
}

func (e execution) size() console.Size {
	if e.terminal == nil {
		return console.Size{Rows: 24, Columns: 80}
	}
	columns, rows, err := term.GetSize(int(e.terminal.Fd()))
	if err != nil {
		return console.Size{Rows: 24, Columns: 80}
	}
	return console.Size{Rows: uint16(rows), Columns: uint16(columns)}
}

func orValue(value, fallback string) string {
	if value == "" {
		return fallback
	}
	return value
}
