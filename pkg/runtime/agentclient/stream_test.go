package agentclient

import (
	"bytes"
	"context"
	"errors"
	"io"
	"testing"
	"time"
)

func TestOutputIsReadToItsEnd(t *testing.T) {
	parts := [][]byte{bytes.Repeat([]byte("a"), chunk), []byte("b"), bytes.Repeat([]byte("c"), 100_000)}
	c := connect(t, &agent{output: parts})
	var got bytes.Buffer
	n, err := io.Copy(&got, c.Stdout(t.Context(), "c1", "c1"))
	if err != nil || n != int64(got.Len()) || !bytes.Equal(got.Bytes(), bytes.Join(parts, nil)) {
		t.Errorf("%d bytes, %v", n, err)
	}
}

// A reader that is slower than the guest must not make this process keep what it has not taken.
func TestASlowReaderHoldsTheGuestUp(t *testing.T) {
	var parts [][]byte
	for range 64 {
		parts = append(parts, bytes.Repeat([]byte("x"), chunk))
	}
	a := &agent{output: parts}
	c := connect(t, a)
	taken := 0
	n, err := c.Stdout(t.Context(), "c1", "c1").WriteTo(writerFunc(func(p []byte) (int, error) {
		taken++
		time.Sleep(2 * time.Millisecond)
		// One is here, one at hand, one on its way.
		if asked := int(a.reads.Load()); asked > taken+2 {
			t.Errorf("%d pieces were asked for when %d had been taken", asked, taken)
		}
		return len(p), nil
	}))
	if err != nil || n != int64(len(parts)*chunk) {
		t.Errorf("%d bytes, %v", n, err)
	}
}

func TestAWriterThatFailsEndsTheReading(t *testing.T) {
	var parts [][]byte
	for range 8 {
		parts = append(parts, bytes.Repeat([]byte("x"), chunk))
	}
	c := connect(t, &agent{output: parts})
	room := 3
	n, err := c.Stdout(t.Context(), "c1", "c1").WriteTo(writerFunc(func(p []byte) (int, error) {
		if room--; room < 0 {
			return 0, io.ErrShortWrite
		}
		return len(p), nil
	}))
	if !errors.Is(err, io.ErrShortWrite) || n != 3*chunk {
		t.Errorf("%d bytes, %v", n, err)
	}
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }

func TestSmallReadsAskForNoMoreThanTheyCanTake(t *testing.T) {
	c := connect(t, &agent{output: [][]byte{[]byte("abc"), []byte("de")}})
	r := c.Stdout(t.Context(), "c1", "c1")
	got, err := io.ReadAll(struct{ io.Reader }{r})
	if err != nil || string(got) != "abcde" {
		t.Errorf("%q, %v", got, err)
	}
	if n, err := r.Read(make([]byte, 1)); n != 0 || err != io.EOF {
		t.Errorf("after the end: %d, %v", n, err)
	}
}

func TestAnAgentThatSendsMoreThanAskedIsNotBelieved(t *testing.T) {
	c := connect(t, &agent{output: [][]byte{[]byte("abcdef")}})
	if _, err := c.Stdout(t.Context(), "c1", "c1").Read(make([]byte, 5)); !errors.Is(err, errStream) {
		t.Errorf("error %v", err)
	}
}

func TestReadingEndsWithItsContext(t *testing.T) {
	block := make(chan struct{})
	c := connect(t, &agent{block: block})
	t.Cleanup(func() { close(block) })
	ctx, cancel := context.WithCancel(t.Context())
	got := make(chan error)
	go func() {
		_, err := c.Stdout(ctx, "c1", "c1").Read(make([]byte, 1))
		got <- err
	}()
	cancel()
	if err := <-got; !errors.Is(err, context.Canceled) {
		t.Errorf("error %v", err)
	}
}

func TestInputArrivesWholeAndIsClosed(t *testing.T) {
	a := &agent{take: 100_000} // less than is sent in one call
	c := connect(t, a)
	w := c.Stdin(t.Context(), "c1", "c1")
	want := bytes.Repeat([]byte("0123456789"), 70_000)
	if n, err := w.Write(want); n != len(want) || err != nil {
		t.Fatalf("%d, %v", n, err)
	}
	if err := w.Close(); err != nil || !a.closed || !bytes.Equal(a.stdin, want) {
		t.Errorf("%v; closed %v, %d bytes", err, a.closed, len(a.stdin))
	}
	if _, err := connect(t, &agent{}).Stdin(t.Context(), "c1", "c1").Write([]byte("x")); !errors.Is(err, errStream) {
		t.Errorf("an agent that takes nothing: error %v", err)
	}
}
