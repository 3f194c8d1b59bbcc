package boot

import (
	"fmt"
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
