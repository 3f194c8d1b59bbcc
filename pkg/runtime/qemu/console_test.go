package qemu

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
)

// collect returns a lines whose clock stands still, and what it emits.
func collect() (*lines, *[]string, *time.Time) {
	var got []string
	l := newLines(func(line []byte) { got = append(got, string(line)) })
	clock := l.filled
	l.now = func() time.Time { return clock }
	return l, &got, &clock
}

func TestConsoleLinesAreWholeSafeAndBounded(t *testing.T) {
	long := strings.Repeat("x", 2500)
	for _, tc := range []struct {
		name   string
		writes []string
		want   []string
	}{
		{"lines across writes", []string{"on", "e\ntwo\nth", "ree"}, []string{"one", "two", "three"}},
		{"empty lines and returns are dropped", []string{"a\r\n\n\r\nb\n"}, []string{"a", "b"}},
		{"nothing steers a terminal", []string{"\x1b[2J\x00\x07é\u202e\xff\tok\n"}, []string{"?[2J??é??\tok"}},
		{"a long line is cut", []string{long}, []string{long[:1024], long[:1024], long[:452]}},
		{"a long line in pieces is cut too", []string{long[:1000], long[:1000] + "\n"}, []string{long[:1024], long[:976]}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			l, got, _ := collect()
			for _, w := range tc.writes {
				if n, err := l.Write([]byte(w)); n != len(w) || err != nil {
					t.Fatal(n, err)
				}
			}
			l.flushAll()
			if !slices.Equal(*got, tc.want) {
				t.Errorf("got %q, want %q", *got, tc.want)
			}
		})
	}
}

func TestTooMuchConsoleIsLeftOutAndCounted(t *testing.T) {
	l, got, clock := collect()
	chunk := []byte(strings.Repeat("flood\n", 1000))
	for range 1000 { // 6 MB
		_, _ = l.Write(chunk)
	}
	if n := len(*got); n > consoleBurst/6 || n < consoleBurst/12 {
		t.Errorf("%d lines came through", n)
	}
	*got = nil
	*clock = clock.Add(time.Minute)
	_, _ = l.Write([]byte("after\n"))
	// Of 1,000 chunks 43 fitted into the burst.
	want := []string{fmt.Sprintf("[%d bytes left out: too much at once]", (1000-consoleBurst/6000)*6000), "after"}
	if !slices.Equal(*got, want) {
		t.Errorf("got %q, want %q", *got, want)
	}
	if n := cap(l.line) + cap(l.tail); n > 128<<10 {
		t.Errorf("%d bytes kept", n)
	}
}

func TestTheLastWordsAreKeptEvenWhenLeftOut(t *testing.T) {
	l, _, _ := collect()
	for range 20_000 {
		_, _ = l.Write([]byte("noise noise noise\n"))
	}
	_, _ = l.Write([]byte("reason\nKernel panic - not syncing: \x1b boom\ntrace\ntrace\n"))
	if words := l.lastWords(12); words != "trace\ntrace" {
		t.Errorf("last words %q", words)
	}
	if words := l.before("Kernel panic", 45); words != "reason\nKernel panic - not syncing: ? boom" {
		t.Errorf("panic %q", words)
	}
	if words := l.before("nowhere", 100); words != "" {
		t.Errorf("found %q", words)
	}
	_, _ = l.Write([]byte(strings.Repeat("y", 1<<20)))
	if words := l.lastWords(20); words != strings.Repeat("y", 20) {
		t.Errorf("last words %q", words)
	}
}
