package boot

import (
	"os"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// consoleLines is how many log lines wait for a slow console, and for one that
// is not there yet.
const consoleLines = 1024

// Console is a log's way out of the machine. Writing to it never blocks: the
// host may not be reading, and the agent must serve all the same. Lines that
// find the queue full are counted and dropped.
type Console struct {
	lines    chan line
	attached sync.Once
	dropped  atomic.Uint64
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

// Flush waits until everything queued was written and the terminal has sent
// it, at most for timeout, and says whether it came to that.
func (c *Console) Flush(timeout time.Duration) bool {
	expired := time.After(timeout)
	flushed := make(chan struct{})
	select {
	case c.lines <- line{flushed: flushed}:
	case <-expired:
		return false
	}
	select {
	case <-flushed:
		return true
	case <-expired:
		return false
	}
}

// Dropped is how many lines were lost.
func (c *Console) Dropped() uint64 { return c.dropped.Load() }

// Attach starts writing to the first of the files that can be opened, and to
// standard error if there is none. The writing goes on for as long as the
// process. A second call does nothing: of two writers, one would answer Flush
// while the other still has the last words in its hand.
func (c *Console) Attach(paths ...string) {
	c.attached.Do(func() { go c.carry(openFirst(paths)) })
}

func openFirst(paths []string) *os.File {
	for _, path := range paths {
		if f, err := os.OpenFile(path, os.O_WRONLY, 0); err == nil {
			return f
		}
	}
	return os.Stderr
}

func (c *Console) carry(out *os.File) {
	for l := range c.lines {
		if l.flushed == nil {
			_, _ = out.Write(l.text)
			continue
		}
		// What a terminal's driver still holds back goes down with the machine. Other files have nothing to drain.
		_ = drain(out)
		close(l.flushed)
	}
}

// drain waits until the terminal has sent everything (tcdrain, which is TCSBRK with an argument other than 0).
func drain(terminal *os.File) error {
	raw, err := terminal.SyscallConn()
	if err != nil {
		return err
	}
	var failed error
	err = raw.Control(func(fd uintptr) { failed = unix.IoctlSetInt(int(fd), unix.TCSBRK, 1) })
	if err != nil {
		return err
	}
	return failed
}
