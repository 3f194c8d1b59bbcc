package agentclient

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"
	"unicode"

	"github.com/containerd/log"
	"github.com/sirupsen/logrus"
)

// writeTimeout is how long the guest may refuse to take in a request before it counts as dead. An agent reads all the
// time, whatever its calls wait for.
const writeTimeout = 20 * time.Second

// maxMessageBytes bounds one message of the guest. The largest that an agent sends is a piece of output; ttrpc itself
// would take 4 MiB.
const maxMessageBytes = bulkChunk + 64<<10

// maxAnswerBytes bounds the answer to all other calls. A hostile one unpacks to a hundred times as much: two bytes make
// a structure. Of output there is no more than there are bytes.
const maxAnswerBytes = chunk + 64<<10

var errTooLarge = errors.New("the guest sent a message that is larger than any of an agent's")

// boundedConn ends the connection when the guest does not take what is written, and when it sends what is too large.
// Without the first one full buffer blocks every call, beyond its time limit: ttrpc writes under a lock.
type boundedConn struct {
	net.Conn
	standing func(since time.Time) bool // Options.Standing
	log      *slog.Logger
	incoming frames
	broken   atomic.Pointer[error] // why this side has hung up
}

// why is what the guest did that this side has hung up for, or nil.
func (c *boundedConn) why() error {
	if broken := c.broken.Load(); broken != nil {
		return *broken
	}
	return nil
}

// Write gives a guest that stands still through no fault of its own all the time it needs.
func (c *boundedConn) Write(p []byte) (written int, err error) {
	for written < len(p) && err == nil {
		began := time.Now()
		if err = c.SetWriteDeadline(began.Add(writeTimeout)); err != nil {
			break
		}
		var n int
		n, err = c.Conn.Write(p[written:])
		written += n
		if errors.Is(err, os.ErrDeadlineExceeded) && c.standing != nil && c.standing(began) {
			err = nil
		}
	}
	if err != nil {
		_ = c.Close() // half a message is out: nothing after it could be understood
	}
	return written, err
}

// Read is called by ttrpc's one receiver.
func (c *boundedConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if bad := c.incoming.see(p[:n]); bad != nil {
		c.log.Error("hanging up on the agent", "error", bad)
		c.broken.CompareAndSwap(nil, &bad)
		_ = c.Close()
		return 0, bad
	}
	return n, err
}

// frames follows the messages in a stream: ten bytes of header, the first four of which are the length of the rest.
type frames struct {
	header [10]byte
	have   int    // bytes of header
	rest   uint32 // bytes of the message that are still to come
}

func (f *frames) see(p []byte) error {
	for len(p) > 0 {
		if f.rest > 0 {
			n := min(len(p), int(f.rest))
			f.rest -= uint32(n)
			p = p[n:]
			continue
		}
		n := copy(f.header[f.have:], p)
		f.have, p = f.have+n, p[n:]
		if f.have < len(f.header) {
			continue
		}
		f.have, f.rest = 0, binary.BigEndian.Uint32(f.header[:])
		if f.rest > maxMessageBytes {
			return fmt.Errorf("%w: %d bytes", errTooLarge, f.rest)
		}
	}
	return nil
}

// readable cuts text of the guest to limit bytes and drops what could disturb a terminal or a log.
func readable(text string, limit int) string {
	text = strings.ToValidUTF8(text[:min(len(text), limit)], "")
	return strings.Map(func(r rune) rune {
		if !unicode.IsGraphic(r) && r != '\n' && r != '\t' {
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
