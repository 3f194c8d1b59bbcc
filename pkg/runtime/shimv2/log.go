package shimv2

import (
	"context"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// logFIFO is the fifo in the bundle whose content containerd copies to its own log.
const logFIFO = "log"

// daemonLog writes to containerd's fifo in the form of containerd's own lines. It never waits for containerd: what does
// not fit while nobody reads is dropped, and counted.
// The level can be changed later.
func daemonLog(o options) (*slog.Logger, *slog.LevelVar) {
	w := openLog(filepath.Join(o.bundle, logFIFO))
	if w.fd >= 0 {
		// The Go runtime writes to stderr when it crashes, and so does ttrpc's own log, in the same form as this one.
		_ = unix.Dup3(w.fd, int(os.Stderr.Fd()), 0)
	}
	level := levelOf(o)
	return newLogger(w, level).With("runtime", filepath.Base(os.Args[0]), "sandbox", o.id), level
}

func levelOf(o options) *slog.LevelVar {
	level := new(slog.LevelVar)
	if o.debug {
		level.Set(slog.LevelDebug)
	}
	return level
}

// newLogger writes containerd's kind of lines: time="…" level=info msg="…" key=value.
func newLogger(w io.Writer, level slog.Leveler) *slog.Logger {
	return slog.New(slog.NewTextHandler(w, &slog.HandlerOptions{Level: level, ReplaceAttr: likeContainerd}))
}

func likeContainerd(groups []string, a slog.Attr) slog.Attr {
	if len(groups) == 0 && a.Key == slog.LevelKey {
		name := strings.ToLower(a.Value.String())
		if name == "warn" {
			name = "warning"
		}
		return slog.String(slog.LevelKey, name)
	}
	return a
}

// fifoWriter writes whole lines or nothing.
type fifoWriter struct {
	fd int // -1 without a fifo

	mu      sync.Mutex
	dropped int // guarded by mu; lines since the last that went through
}

// openLog opens the fifo for both directions, which neither waits for containerd nor fails when it is away.
func openLog(path string) *fifoWriter {
	fd, err := unix.Open(path, unix.O_RDWR|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		fd = -1
	}
	return &fifoWriter{fd: fd}
}

// Write never fails and never waits. A line of up to 4 KiB is written whole or not at all (PIPE_BUF).
func (w *fifoWriter) Write(line []byte) (int, error) {
	if w.fd < 0 {
		return len(line), nil
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.dropped > 0 {
		notice := "level=warning msg=\"log lines were dropped while nobody read them\" lines=" + strconv.Itoa(w.dropped) + "\n"
		if _, err := unix.Write(w.fd, []byte(notice)); err != nil {
			w.dropped++
			return len(line), nil
		}
		w.dropped = 0
	}
	if _, err := unix.Write(w.fd, line); err != nil {
		w.dropped++
	}
	return len(line), nil
}

func dumpGoroutines(log *slog.Logger) {
	for size := 64 << 10; ; size *= 2 {
		buf := make([]byte, size)
		if n := runtime.Stack(buf, true); n < size {
			for goroutine := range strings.SplitSeq(string(buf[:n]), "\n\n") {
				log.LogAttrs(context.Background(), slog.LevelWarn, "goroutine", slog.String("stack", goroutine))
			}
			return
		}
	}
}
