package sandbox

import (
	"context"
	"log/slog"
	"regexp"
	"strings"
	"sync"
	"time"
)

// console takes the lines of the guest's console, whose length and rate the machine bounds, and keeps the last ones: of
// a guest that does not come up they are all there is to go by. What an agent warns of is for everybody's log, the rest for
// who looks for it.
type console struct {
	log *slog.Logger

	mu     sync.Mutex
	tail   []byte
	since  time.Time // guarded by mu, as warned: the minute that is under way
	warned int       // and the warnings in it
}

const maxConsoleTail = 2 << 10

// maxWarnings is how many of a guest's warnings a minute are for everybody's log: it can invent any number.
const maxWarnings = 20

// isWarning is a line of an agent's log with a level above info, in the words of ours or of Kata's.
var isWarning = regexp.MustCompile(`^\{.*"level":"(WARN|ERR|CRIT)`)

func (c *console) Write(p []byte) (int, error) {
	line := strings.TrimRight(string(p), "\r\n")
	level := slog.LevelDebug
	if isWarning.MatchString(line) && c.mayWarn() {
		level = slog.LevelWarn
	}
	c.log.Log(context.Background(), level, "guest console", "line", line)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.tail = append(c.tail, p...)
	if excess := len(c.tail) - maxConsoleTail; excess > 0 {
		c.tail = append(c.tail[:0], c.tail[excess:]...)
	}
	return len(p), nil
}

// mayWarn counts a warning, and says in the log when there are too many.
func (c *console) mayWarn() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if now := time.Now(); now.Sub(c.since) > time.Minute {
		c.since, c.warned = now, 0
	}
	if c.warned++; c.warned == maxWarnings+1 {
		c.log.Warn("the guest warns of too much; the rest of this minute is logged at level debug only")
	}
	return c.warned <= maxWarnings
}

func (c *console) last() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return strings.TrimSpace(string(c.tail))
}
