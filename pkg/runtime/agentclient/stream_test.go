package agentclient

import (
	"bytes"
	"context"
	"errors"
	"io"
	"testing"
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
