package task

import (
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// openedFIFO is an output with a reader that takes nothing by itself.
func openedFIFO(t *testing.T) (*output, *os.File) {
	t.Helper()
	path := fifo(t)
	reader, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	o, err := openOutput(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { reader.Close(); o.close() })
	return o, reader
}

func TestAFullFifoTakesNothingAndIsNotWaitedFor(t *testing.T) {
	t.Parallel()
	o, reader := openedFIFO(t)
	data := noise(3 * fifoSize)
	began := time.Now()
	n := o.TryWrite(data)
	if n == 0 || n > fifoSize {
		t.Errorf("an empty fifo took %d bytes", n)
	}
	wantEqual(t, "taken by a full fifo", o.TryWrite(data[n:]), 0)
	if took := time.Since(began); took > patience/2 {
		t.Errorf("it took %v", took)
	}
	got := make([]byte, n)
	if _, err := io.ReadFull(reader, got); err != nil {
		t.Fatal(err)
	}
	wantBytes(t, "what was taken", got, data[:n])
	if n := o.TryWrite(data[n:]); n == 0 {
		t.Error("a fifo that was read takes nothing")
	}
	wantEqual(t, "lost", o.lost.Load(), 0)
}

func TestWhatCannotBeWrittenAnyMoreIsCountedAndForgotten(t *testing.T) {
	t.Parallel()
	o, _ := openedFIFO(t)
	o.close()
	wantEqual(t, "taken", o.TryWrite(noise(1000)), 1000)
	wantEqual(t, "taken", o.TryWrite(noise(1000)), 1000)
	wantEqual(t, "lost", o.lost.Load(), 2000)
}

// asks notes what it was offered to write to.
type asks struct{ io.Reader }

func (a asks) WriteTo(w io.Writer) (int64, error) {
	_, prompt := w.(interface{ TryWrite([]byte) int })
	answer := "can be waited for"
	if prompt {
		answer = "must not be waited for"
	}
	n, err := io.WriteString(w, answer)
	return int64(n), err
}

// A disk can be slow, and whoever must not wait does not write to it.
func TestOnlyAFifoIsWrittenWithoutWaiting(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "log")
	file, err := openOutput(t.Context(), "file://"+path)
	if err != nil {
		t.Fatal(err)
	}
	s := &stdio{}
	s.copyOut("stdout", file, asks{})
	data, err := os.ReadFile(path)
	if err != nil || string(data) != "can be waited for" {
		t.Errorf("a file: %q, %v", data, err)
	}
	o, reader := openedFIFO(t)
	go s.copyOut("stdout", o, asks{})
	got := make([]byte, 100)
	n, err := reader.Read(got)
	if err != nil || !strings.HasPrefix(string(got[:n]), "must not") {
		t.Errorf("a fifo: %q, %v", got[:n], err)
	}
}
