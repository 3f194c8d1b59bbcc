package main

import (
	"bytes"
	"log/slog"
	"path/filepath"
	"strings"
	"testing"
)

func TestANoticeIsAWarningOncePerHost(t *testing.T) {
	var said bytes.Buffer
	dir := filepath.Join(t.TempDir(), "run")
	for range 3 { // three pods
		notices{dir, slog.New(slog.NewTextHandler(&said, nil))}.tell([]string{"one", "two"})
	}
	notices{dir, slog.New(slog.NewTextHandler(&said, nil))}.tell([]string{"three"})
	if n := strings.Count(said.String(), "level=WARN"); n != 3 {
		t.Errorf("%d warnings, want 3:\n%s", n, said.String())
	}
	said.Reset()
	for range 2 {
		notices{"/dev/null/nowhere", slog.New(slog.NewTextHandler(&said, nil))}.tell([]string{"one"})
	}
	if n := strings.Count(said.String(), "level=WARN"); n != 2 {
		t.Errorf("%d warnings where nothing can be remembered", n)
	}
}
