package console

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"sync"

	"github.com/katadirect/katadirect/pkg/agent/process"
)

// Serve gives a shell on a terminal to whoever connects, as Kata's agent does
// on Port: there is nothing on the wire but what is typed and printed, so
// neither the window's size nor the exit status gets across. It returns when
// the listener is closed, and all shells have ended.
func (c *Console) Serve(ctx context.Context, l net.Listener) error {
	var users sync.WaitGroup
	defer users.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	for {
		conn, err := l.Accept()
		if errors.Is(err, net.ErrClosed) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("debug console: %w", err)
		}
		users.Go(func() {
			defer conn.Close()
			if err := c.shell(ctx, conn); err != nil {
				slog.Warn("debug console", "error", err)
				fmt.Fprintf(conn, "%v\r\n", err)
			}
		})
	}
}

// shell runs one shell until it exits or the other side hangs up.
func (c *Console) shell(ctx context.Context, conn net.Conn) error {
	id, err := c.Open(Request{Terminal: true})
	if err != nil {
		return err
	}
	defer c.Close(id)
	p, err := c.Program(id)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	defer stop()
	var typing sync.WaitGroup
	typing.Go(func() {
		defer cancel() // who has hung up reads no more
		_, _ = io.Copy(typist{ctx, p}, conn)
	})
	for {
		data, err := p.ReadStdout(ctx, 64<<10)
		if err == nil && len(data) > 0 {
			_, err = conn.Write(data)
		} else if err == nil {
			err = io.EOF
		}
		if err != nil {
			cancel()
			typing.Wait()
			return nil // the shell or the other side has ended
		}
	}
}

// typist writes to a program's standard input.
type typist struct {
	ctx context.Context
	p   *process.Process
}

func (t typist) Write(data []byte) (int, error) { return t.p.WriteStdin(t.ctx, data) }
