package sandbox

import (
	"bytes"
	"fmt"
	"log/slog"
	"strings"
	"testing"
)

func TestWhatAnAgentWarnsOfIsInTheLogAtEveryLevel(t *testing.T) {
	for _, tc := range []struct {
		line string
		want bool
	}{
		{`{"time":"2026-01-02T03:04:05Z","level":"WARN","msg":"the file system was repaired"}`, true},
		{`{"time":"2026-01-02T03:04:05Z","level":"ERROR","msg":"failed"}`, true},
		{`{"msg":"of Kata's agent","level":"WARN","ts":"2026-01-02T03:04:05Z"}`, true},
		{`{"time":"2026-01-02T03:04:05Z","level":"ERROR","msg":"too long a line, which the mach`, true},
		{`{"time":"2026-01-02T03:04:05Z","level":"INFO","msg":"container is started"}`, false},
		{`{"time":"2026-01-02T03:04:05Z","level":"INFO","msg":"says \"level\":\"WARN\""}`, false},
		{`[    1.000000] virtio_blk virtio0: "level":"WARN"`, false},
		{``, false},
	} {
		var log bytes.Buffer
		c := &console{log: slog.New(slog.NewTextHandler(&log, nil))}
		if _, err := c.Write([]byte(tc.line + "\n")); err != nil {
			t.Error(err)
		}
		if got := strings.Contains(log.String(), "level=WARN"); got != tc.want || !tc.want && log.Len() > 0 {
			t.Errorf("%s\nis logged as %q", tc.line, log.String())
		}
		if c.last() != tc.line {
			t.Errorf("the last words are %q", c.last())
		}
	}
}

func TestAGuestThatWarnsWithoutEndDoesNotFillTheLog(t *testing.T) {
	var log bytes.Buffer
	c := &console{log: slog.New(slog.NewTextHandler(&log, nil))}
	for i := range 100 * maxWarnings {
		_, _ = fmt.Fprintf(c, "{\"level\":\"ERROR\",\"msg\":\"%d\"}\n", i)
	}
	// More than one minute's only on a host that takes minutes for this.
	if n := strings.Count(log.String(), "\n"); n < maxWarnings+1 || n > 10*maxWarnings {
		t.Errorf("%d lines", n)
	}
}
