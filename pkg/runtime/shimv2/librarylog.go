package shimv2

import (
	"context"
	"io"
	"log/slog"
	"sync"
	"time"

	"github.com/containerd/log"
)

// adoptLibraryLogs leads what ttrpc says through logrus to the shim's log.
func adoptLibraryLogs(to *slog.Logger) {
	l := log.L.Logger
	l.SetOutput(io.Discard)
	l.SetFormatter(&bridge{to: to})
}

// bridgeLines is how many library lines a second are passed on. A ttrpc client whose connection was cut can log the
// same line in a tight loop.
const bridgeLines = 10

// bridge is a logrus formatter that formats nothing and logs to slog instead.
type bridge struct {
	to *slog.Logger

	mu      sync.Mutex
	second  time.Time // guarded by mu
	lines   int       // guarded by mu; in that second
	dropped int       // guarded by mu; since the last line passed on
}

// Format passes an entry on.
func (b *bridge) Format(e *log.Entry) ([]byte, error) {
	dropped, ok := b.admit(e.Time.Truncate(time.Second))
	if !ok {
		return nil, nil
	}
	attrs := make([]slog.Attr, 0, len(e.Data)+1)
	for key, value := range e.Data {
		attrs = append(attrs, slog.Any(key, value))
	}
	if dropped > 0 {
		attrs = append(attrs, slog.Int("dropped", dropped))
	}
	b.to.LogAttrs(context.Background(), slogLevel(e.Level), e.Message, attrs...)
	return nil, nil
}

func (b *bridge) admit(second time.Time) (dropped int, ok bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !second.Equal(b.second) {
		b.second, b.lines = second, 0
	}
	if b.lines >= bridgeLines {
		b.dropped++
		return 0, false
	}
	b.lines++
	dropped, b.dropped = b.dropped, 0
	return dropped, true
}

func slogLevel(l log.Level) slog.Level {
	switch {
	case l <= log.ErrorLevel:
		return slog.LevelError
	case l == log.WarnLevel:
		return slog.LevelWarn
	case l == log.InfoLevel:
		return slog.LevelInfo
	default:
		return slog.LevelDebug
	}
}
