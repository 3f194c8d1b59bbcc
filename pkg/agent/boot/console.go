package boot

import (
	"io"
	"os"
	"sync/atomic"
	"time"
)

// consoleLines is how many log lines wait for a slow console, and for one that
// is not there yet.
const consoleLines = 1024

// Console is a log's way out of the machine. Writing to it never blocks: the
// host may not be reading, and the agent must serve all the same. Lines that
// find the queue full are counted and dropped.
type Console struct {
	lines   chan line
	dropped atomic.Uint64
}

// line is something to write, or, with flushed, a question whether everything
// before it was written.
type line struct {
	text    []byte
	flushed chan<- struct{}
}

// NewConsole returns a console that keeps lines until Attach.
func NewConsole() *Console {
	return &Console{lines: make(chan line, consoleLines)}
}

// Write queues one log line.
func (c *Console) Write(text []byte) (int, error) {
	select {
	case c.lines <- line{text: append([]byte(nil), text...)}:
	default:
		c.dropped.Add(1)
	}
	return len(text), nil
}

// Flush waits until everything queued was written, at most for timeout.
func (c *Console) Flush(timeout time.Duration) {
	expired := time.After(timeout)
	flushed := make(chan struct{})
	select {
	case c.lines <- line{flushed: flushed}:
	case <-expired:
		return
	}
	select {
	case <-flushed:
	case <-expired:
	}
}

// Dropped is how many lines were lost.
func (c *Console) Dropped() uint64 { return c.dropped.Load() }

// Attach starts writing to the first of the files that can be opened, and to
// standard error if there is none. It is called once; the writing goes on for
// as long as the process.
func (c *Console) Attach(paths ...string) {
	out := io.Writer(os.Stderr)
	for _, path := range paths {
		if f, err := os.OpenFile(path, os.O_WRONLY, 0); err == nil {
			out = f
			break
		}
	}
	go func() {
		for l := range c.lines {
			if l.flushed != nil {
				close(l.flushed)
				continue
			}
			_, _ = out.Write(l.text)
		}
	}()
}
