package qemu

import (
	"bytes"
	"fmt"
	"sync"
	"time"
	"unicode"
	"unicode/utf8"
)

// What a guest may say on its console. Its words go to the host's logs, and a hostile one never ends.
const (
	consoleLine  = 1 << 10   // longer lines are cut into several
	consoleBurst = 256 << 10 // bytes let through at once
	consoleRate  = 32 << 10  // bytes per second in the long run
	consoleTail  = 16 << 10  // the last words, kept for the error message; a kernel's last ones are long
)

// lines takes a stream apart into lines that are safe to log, at a bounded rate and in bounded memory. Beyond the
// rate it drops whole chunks, and says how much it dropped when it can speak again.
type lines struct {
	emit func(line []byte) // gets one line without its end, valid until it returns
	now  func() time.Time

	mu      sync.Mutex
	line    []byte // not ended yet, at most consoleLine
	budget  float64
	filled  time.Time // when budget was last filled up
	dropped int64
	tail    []byte // raw, at most 2*consoleTail
}

func newLines(emit func([]byte)) *lines {
	return &lines{emit: emit, now: time.Now, budget: consoleBurst, filled: time.Now()}
}

// Write implements io.Writer. It never fails and never waits, but for emit.
func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.remember(p)
	if !l.allow(len(p)) {
		l.dropped += int64(len(p))
		return len(p), nil
	}
	if l.dropped > 0 {
		l.flush()
		l.emit(fmt.Appendf(nil, "[%d bytes left out: too much at once]", l.dropped))
		l.dropped = 0
	}
	for rest := p; len(rest) > 0; {
		line, after, ended := bytes.Cut(rest, []byte{'\n'})
		if room := consoleLine - len(l.line); len(line) > room {
			line, after, ended = rest[:room], rest[room:], true
		}
		l.line = appendPrintable(l.line, line)
		if ended {
			l.flush()
		}
		rest = after
	}
	return len(p), nil
}

// flushAll hands out what stands in an unfinished line.
func (l *lines) flushAll() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.flush()
}

func (l *lines) flush() {
	if len(l.line) > 0 {
		l.emit(l.line)
		l.line = l.line[:0]
	}
}

// allow says whether n bytes are within the rate.
func (l *lines) allow(n int) bool {
	now := l.now()
	l.budget = min(consoleBurst, l.budget+now.Sub(l.filled).Seconds()*consoleRate)
	l.filled = now
	if float64(n) > l.budget {
		return false
	}
	l.budget -= float64(n)
	return true
}

func (l *lines) remember(p []byte) {
	if len(p) > consoleTail {
		p = p[len(p)-consoleTail:]
	}
	if len(l.tail)+len(p) > 2*consoleTail {
		keep := l.tail[max(0, len(l.tail)-consoleTail):]
		l.tail = append(l.tail[:0], keep...)
	}
	l.tail = append(l.tail, p...)
}

// lastWords returns the last lines that were written, n bytes at most, whether they were let through or not.
func (l *lines) lastWords(n int) string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return printableEnd(l.tail, n)
}

// before returns the last line that holds word, and what was said before it, n bytes at most; "" if there is none.
func (l *lines) before(word string, n int) string {
	l.mu.Lock()
	defer l.mu.Unlock()
	at := bytes.LastIndex(l.tail, []byte(word))
	if at < 0 {
		return ""
	}
	rest, _, _ := bytes.Cut(l.tail[at:], []byte{'\n'})
	return printableEnd(l.tail[:at+len(rest)], n)
}

// printableEnd is the end of text in whole lines, n bytes at most.
func printableEnd(text []byte, n int) string {
	text = bytes.TrimSpace(text)
	if len(text) > n {
		text = text[len(text)-n:]
		if _, after, found := bytes.Cut(text, []byte{'\n'}); found {
			text = after // begin with a whole line
		}
	}
	var out []byte
	for line := range bytes.Lines(text) {
		out = append(appendPrintable(out, bytes.TrimRight(line, "\r\n")), '\n')
	}
	return string(bytes.TrimSpace(out))
}

// appendPrintable replaces what could steer a terminal or break a log.
func appendPrintable(to, text []byte) []byte {
	for len(text) > 0 {
		r, n := utf8.DecodeRune(text)
		switch {
		case r == '\r':
		case r == '\t' || (r != utf8.RuneError && unicode.IsPrint(r)):
			to = append(to, text[:n]...)
		default:
			to = append(to, '?')
		}
		text = text[n:]
	}
	return to
}
