package process_test

import (
	"context"
	"crypto/sha256"
	"fmt"
	"strings"
	"testing"

	"github.com/katadirect/katadirect/pkg/agent/process"
)

// filling makes of a method that fills memory of the caller's one that reads.
func filling(fill func(context.Context, func() []byte) (int, error)) func(context.Context, int) ([]byte, error) {
	return func(ctx context.Context, limit int) ([]byte, error) {
		var space []byte
		n, err := fill(ctx, func() []byte {
			space = make([]byte, limit)
			return space
		})
		return space[:n], err
	}
}

func TestFilledInOutputIsCompleteToTheLastByte(t *testing.T) {
	for _, limit := range []int{1000, process.DefaultPipeSize} {
		p := start(t, "head -c 3000001 /dev/urandom | tee /dev/stderr")
		stderr := make(chan []byte, 1)
		go func() { stderr <- readAll(t, filling(p.FillStderr), limit) }()
		out := readAll(t, filling(p.FillStdout), limit)
		if err := <-stderr; len(out) != 3000001 || sha256.Sum256(out) != sha256.Sum256(err) {
			t.Errorf("in pieces of %d: %d and %d bytes, or others", limit, len(out), len(err))
		}
		if !p.Drained() {
			t.Error("there is more")
		}
	}
}

func TestWhatAProcessHadWrittenAtItsExitIsFilledInHoweverLate(t *testing.T) {
	// Something in the background holds the stream.
	p := start(t, "head -c 500000 /dev/zero; sleep 60 & echo end")
	if _, err := p.Wait(t.Context()); err != nil {
		t.Fatal(err)
	}
	out := readAll(t, filling(p.FillStdout), 70_000)
	if len(out) != 500004 || !strings.HasSuffix(string(out), "end\n") {
		t.Errorf("%d bytes: %q", len(out), fmt.Sprintf("%.20s", out[max(0, len(out)-20):]))
	}
}

func TestFillingEndsWithItsContext(t *testing.T) {
	p := start(t, "sleep 60")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := p.FillStdout(ctx, func() []byte {
		t.Error("memory was taken with nothing to put there")
		return make([]byte, 1)
	})
	if err == nil {
		t.Error("it did not end")
	}
}
