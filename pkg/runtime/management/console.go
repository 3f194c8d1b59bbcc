package management

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/katadirect/katadirect/internal/console"
)

var (
	// ErrNoConsole says that the sandbox was made without a debug console.
	ErrNoConsole = errors.New("the debug console is off: set debug_console_enabled = true in [agent.kata] of " +
		"configuration.toml and make the pod again")
	// ErrCannotConsole says that the agent in the guest has no console that this shim knows how to use.
	ErrCannotConsole = errors.New("the agent in the guest has no debug console for this tool; kata-runtime exec may know its own")
)

// maxConsoles is below maxConns: people who look must not shut out the CSI driver.
const maxConsoles = 4

// Console is one program in the guest, outside of all containers.
type Console interface {
	Stdin() io.WriteCloser
	Stdout() io.Reader
	Stderr() io.Reader // empty with a terminal
	Resize(ctx context.Context, size console.Size) error
	// Wait returns the exit status.
	Wait(ctx context.Context) (int, error)
	// Close ends the program.
	Close(ctx context.Context) error
}

// consoles serves console.Path. It is no ordinary route: the connection is taken out of HTTP, with its time-outs.
type consoles struct {
	backend Backend
	log     *slog.Logger
	places  chan struct{}
}

func newConsoles(b Backend, log *slog.Logger) *consoles {
	return &consoles{b, log, make(chan struct{}, maxConsoles)}
}

func (c *consoles) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	select {
	case c.places <- struct{}{}:
		defer func() { <-c.places }()
	default:
		http.Error(w, fmt.Sprintf("the sandbox has %d debug consoles already", maxConsoles), http.StatusServiceUnavailable)
		return
	}
	if r.Header.Get("Upgrade") != console.Protocol {
		http.Error(w, "upgrade to "+console.Protocol, http.StatusUpgradeRequired)
		return
	}
	var request console.Request
	if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxBodyBytes)).Decode(&request); err != nil {
		http.Error(w, "read the request: "+err.Error(), http.StatusBadRequest)
		return
	}
	open, err := c.backend.OpenConsole(r.Context(), request)
	if err != nil {
		c.log.Warn("debug console refused", "error", err)
		http.Error(w, err.Error(), consoleStatus(err))
		return
	}
	c.log.Warn("debug console opened", "args", request.Args, "terminal", request.Terminal)
	defer func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(r.Context()), 10*time.Second)
		defer cancel()
		if err := open.Close(ctx); err != nil {
			c.log.Warn("debug console", "error", err)
		}
		c.log.Info("debug console closed")
	}()
	conn, raw, err := upgrade(w)
	if err != nil {
		c.log.Warn("debug console", "error", err)
		return
	}
	defer conn.Close()
	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	go func() {
		defer cancel()
		awaitHangUp(ctx, raw)
	}()
	serveConsole(ctx, conn, open)
}

func consoleStatus(err error) int {
	switch {
	case errors.Is(err, ErrNoConsole):
		return http.StatusForbidden
	case errors.Is(err, ErrCannotConsole):
		return http.StatusNotImplemented
	}
	return http.StatusInternalServerError
}

// upgrade takes the connection out of HTTP.
func upgrade(w http.ResponseWriter) (*console.Conn, net.Conn, error) {
	raw, buffered, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return nil, nil, fmt.Errorf("upgrade: %w", err)
	}
	err = raw.SetDeadline(time.Time{})
	if err == nil {
		_, err = fmt.Fprintf(raw, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: %s\r\n\r\n", console.Protocol)
	}
	if err != nil {
		return nil, nil, errors.Join(fmt.Errorf("upgrade: %w", err), raw.Close())
	}
	return console.NewConn(raw, buffered.Reader), raw, nil
}

// serveConsole carries everything both ways until the program has ended, the tool has hung up, or ctx ends with the
// server.
func serveConsole(ctx context.Context, conn *console.Conn, open Console) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var typing, printing sync.WaitGroup
	typing.Go(func() {
		defer cancel()
		takeFrames(ctx, conn, open)
	})
	// What waits for the tool, or for the guest, ends with either.
	stop := context.AfterFunc(ctx, func() {
		_ = conn.Close()
		end, done := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
		defer done()
		_ = open.Close(end)
	})
	defer stop()
	printing.Go(func() { _, _ = io.Copy(conn.Writer(console.Stdout), open.Stdout()) })
	printing.Go(func() { _, _ = io.Copy(conn.Writer(console.Stderr), open.Stderr()) })
	printing.Wait()
	if status, err := open.Wait(ctx); err != nil {
		_ = conn.Send(console.Failure, []byte(err.Error()))
	} else {
		_ = conn.SendJSON(console.Exit, status)
	}
	stop()
	_ = conn.Close() // ends takeFrames
	typing.Wait()
}

// takeFrames does what the tool says until it hangs up.
func takeFrames(ctx context.Context, conn *console.Conn, open Console) {
	stdin := open.Stdin()
	for {
		kind, data, err := conn.Receive()
		if err != nil {
			return
		}
		switch kind {
		case console.Stdin:
			if len(data) == 0 {
				_ = stdin.Close()
			} else if _, err := stdin.Write(data); err != nil {
				continue // the program does not read any more; its end comes by itself
			}
		case console.Resize:
			var size console.Size
			if json.Unmarshal(data, &size) == nil {
				_ = open.Resize(ctx, size) // of no more than looks
			}
		default:
			return
		}
	}
}
