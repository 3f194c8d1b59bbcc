package process

import (
	"context"
	"os"
	"testing"
	"time"
)

// exiting has the process exit while its first piece is being taken, and takes the rest late.
type exiting struct {
	o      *output
	piece  [300]byte
	pieces int
	got    int
}

func (e *exiting) Ready(context.Context) error {
	if e.pieces == 1 {
		time.Sleep(afterExit + 200*time.Millisecond) // past the time that others have, which is what is tested
	}
	return nil
}

func (e *exiting) Take(fd int) (int, error) {
	n, err := ReadOnce(fd, e.piece[:])
	if e.pieces == 0 {
		go e.o.processExited()
		time.Sleep(50 * time.Millisecond) // it has every opportunity
	}
	e.pieces++
	return n, err
}

func (e *exiting) Taken(bytes int) error {
	e.got += bytes
	return nil
}

func TestWhatIsTakenWhileTheProcessExitsIsNotOwedTwice(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close() // somebody in the background holds it
	const written = 1000
	if _, err := w.Write(make([]byte, written)); err != nil {
		t.Fatal(err)
	}
	e := &exiting{o: newOutput(r)}
	defer e.o.close()
	if err := e.o.pour(t.Context(), e); err != nil || e.got != written {
		t.Errorf("%d bytes of %d, %v", e.got, written, err)
	}
}
