package child

import (
	"log/slog"
	"strings"
	"sync"
)

// Words logs what a program says and keeps the end of it for the error. A line, the rate and the memory are bounded:
// a guest can make the programs beside its machine complain as often as it likes.
type Words struct {
	name  string
	log   *slog.Logger
	mu    sync.Mutex
	tail  []byte
	lines int
}

// NewWords makes one for the program of that name; it is the program's standard output and error.
func NewWords(name string, log *slog.Logger) *Words { return &Words{name: name, log: log} }

const (
	maxTail  = 2 << 10
	maxLines = 1000
)

// Write implements io.Writer.
func (l *Words) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.tail = append(l.tail, p...)
	if excess := len(l.tail) - maxTail; excess > 0 {
		l.tail = append(l.tail[:0], l.tail[excess:]...)
	}
	if l.lines++; l.lines <= maxLines {
		l.log.Debug(l.name, "says", strings.TrimSpace(string(p[:min(len(p), maxTail)])))
	}
	return len(p), nil
}

// String is the end of what it has said, in one line.
func (l *Words) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Join(strings.Fields(string(l.tail)), " ")
}
