package boot

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestLinesWrittenBeforeThereIsAConsoleArriveInOrder(t *testing.T) {
	c := NewConsole()
	for i := range 3 {
		fmt.Fprintf(c, "line %d\n", i)
	}
	file := filepath.Join(t.TempDir(), "console")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	c.Attach("/no/such/device", file)
	fmt.Fprintln(c, "line 3")
	c.Flush(10 * time.Second)
	if got, err := os.ReadFile(file); err != nil || string(got) != "line 0\nline 1\nline 2\nline 3\n" {
		t.Errorf("%q, %v", got, err)
	}
}

// The host has stopped reading: nobody in the guest may wait for it.
func TestAConsoleThatNobodyReadsHoldsNobodyUp(t *testing.T) {
	fifo := filepath.Join(t.TempDir(), "console")
	if err := unix.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	reader, err := os.OpenFile(fifo, os.O_RDWR, 0) // holds it open, and reads nothing
	if err != nil {
		t.Fatal(err)
	}
	defer reader.Close()
	c := NewConsole()
	c.Attach(fifo)
	line := strings.Repeat("x", 1000)
	for range 10 * consoleLines {
		fmt.Fprintln(c, line)
	}
	c.Flush(10 * time.Millisecond)
	if c.Dropped() == 0 {
		t.Error("nothing was dropped: where did it all go?")
	}
}

// The agent attaches when it starts to serve, and again when it cannot go on: what it says last must be out before the
// machine is switched off.
func TestAConsoleAttachedTwiceFlushesOnlyWhatWasWritten(t *testing.T) {
	fifo := filepath.Join(t.TempDir(), "console")
	if err := unix.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	reader, err := os.OpenFile(fifo, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer reader.Close()
	c := NewConsole()
	c.Attach(fifo)
	c.Attach(fifo)
	line := strings.Repeat("x", 1<<20) // more than the pipe holds: its writer waits
	fmt.Fprintln(c, line)
	if c.Flush(50 * time.Millisecond) {
		t.Error("flushed before it was read")
	}
	if _, err := io.CopyN(io.Discard, reader, int64(len(line)+1)); err != nil {
		t.Fatal(err)
	}
	if !c.Flush(10 * time.Second) {
		t.Error("not flushed though all was read")
	}
}
