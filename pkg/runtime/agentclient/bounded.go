package agentclient

import (
	"io"
	"log/slog"
	"net"
	"strings"
	"sync"
	"time"
	"unicode"

	"github.com/containerd/log"
	"github.com/sirupsen/logrus"
)

// writeTimeout is how long the guest may refuse to take in a request before it counts as dead. An agent reads all the
// time, whatever its calls wait for.
const writeTimeout = 20 * time.Second

// boundedConn ends the connection when the guest does not take what is written. Without it one full buffer blocks
// every call, beyond its time limit: ttrpc writes under a lock.
type boundedConn struct{ net.Conn }

func (c *boundedConn) Write(p []byte) (int, error) {
	if err := c.SetWriteDeadline(time.Now().Add(writeTimeout)); err != nil {
		return 0, err
	}
	n, err := c.Conn.Write(p)
	if err != nil {
		_ = c.Close() // half a message is out: nothing after it could be understood
	}
	return n, err
}

// readable cuts text of the guest to limit bytes and drops what could disturb a terminal or a log.
func readable(text string, limit int) string {
	text = strings.ToValidUTF8(text[:min(len(text), limit)], "")
	return strings.Map(func(r rune) rune {
		if unicode.IsControl(r) && r != '\n' && r != '\t' {
			return -1
		}
		return r
	}, text)
}

// The ttrpc library logs through one logger of the process, a line for every message it did not expect, and the
// guest can send any number of those. Its log therefore goes through a writer that lets only so many lines pass.
var libraryLog struct {
	once  sync.Once
	limit lineLimit
}

func boundLibraryLog(to *slog.Logger) {
	libraryLog.once.Do(func() {
		libraryLog.limit = lineLimit{log: to, now: time.Now}
		quiet := logrus.New()
		quiet.SetOutput(&libraryLog.limit)
		quiet.SetFormatter(&logrus.TextFormatter{DisableTimestamp: true, DisableColors: true})
		log.L = logrus.NewEntry(quiet)
	})
}

const (
	linesPerWindow = 20
	window         = time.Minute
	maxLine        = 1 << 10
)

// lineLimit passes linesPerWindow lines a window to log and drops the rest.
type lineLimit struct {
	log *slog.Logger
	now func() time.Time

	mu    sync.Mutex
	since time.Time
	lines int
}

var _ io.Writer = (*lineLimit)(nil)

func (l *lineLimit) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if now := l.now(); now.Sub(l.since) > window {
		l.since, l.lines = now, 0
	}
	switch l.lines++; {
	case l.lines < linesPerWindow:
		l.log.Warn("library", "says", readable(strings.TrimSpace(string(p)), maxLine))
	case l.lines == linesPerWindow:
		l.log.Warn("library says too much; the rest of this minute is dropped")
	}
	return len(p), nil
}
