package process_test

import (
	"context"
	"crypto/sha256"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/katadirect/katadirect/pkg/agent/process"
)

// taking is a Taker that reads in pieces of so many bytes.
type taking struct {
	piece []byte
	got   []byte
	ready func(ctx context.Context) error
}

func (k *taking) Ready(ctx context.Context) error {
	if k.ready != nil {
		return k.ready(ctx)
	}
	return nil
}

func (k *taking) Take(fd int) (int, error) { return process.ReadOnce(fd, k.piece) }

func (k *taking) Taken(bytes int) error {
	k.got = append(k.got, k.piece[:bytes]...)
	return nil
}

// pouring reads all of a stream.
func pouring(t *testing.T, pour func(context.Context, process.Taker) error, piece int) []byte {
	k := &taking{piece: make([]byte, piece)}
	if err := pour(t.Context(), k); err != nil {
		t.Error(err)
	}
	return k.got
}

func TestPouredOutputIsCompleteToTheLastByte(t *testing.T) {
	for _, piece := range []int{1000, process.DefaultPipeSize} {
		p := start(t, "head -c 3000001 /dev/urandom | tee /dev/stderr")
		stderr := make(chan []byte, 1)
		go func() { stderr <- pouring(t, p.PourStderr, piece) }()
		out := pouring(t, p.PourStdout, piece)
		if err := <-stderr; len(out) != 3000001 || sha256.Sum256(out) != sha256.Sum256(err) {
			t.Errorf("in pieces of %d: %d and %d bytes, or others", piece, len(out), len(err))
		}
		if !p.Drained() {
			t.Error("there is more")
		}
	}
}

func TestWhatAProcessHadWrittenAtItsExitIsPouredHoweverLate(t *testing.T) {
	// Something in the background holds the stream, and goes on writing.
	p := start(t, "head -c 500000 /dev/zero; echo end; (while sleep 0.3; do echo late; done) &")
	if _, err := p.Wait(t.Context()); err != nil {
		t.Fatal(err)
	}
	time.Sleep(700 * time.Millisecond) // past the time that others have, which is what is tested
	out := pouring(t, p.PourStdout, 70_000)
	if got := string(out[min(len(out), 500_000):]); !strings.HasPrefix(got, "end\n") || len(out) > 500_000+70_000 {
		t.Errorf("%d bytes: %.20q", len(out), got)
	}
}

// The stream is under way when the process exits.
func TestABackgroundProcessDoesNotHoldAPouredStreamOpen(t *testing.T) {
	p := start(t, "echo begin; (sleep 60; echo late) & sleep 0.2; echo end")
	if out := pouring(t, p.PourStdout, 1000); string(out) != "begin\nend\n" {
		t.Errorf("%q", out)
	}
}

func TestPouringEndsWithItsContextAndLeavesTheRest(t *testing.T) {
	p := start(t, "echo some; read line; echo more")
	ctx, cancel := context.WithCancel(t.Context())
	k := &taking{piece: make([]byte, 100)}
	waits := 0
	k.ready = func(context.Context) error {
		if waits++; waits == 2 {
			cancel()
		}
		return nil
	}
	if err := p.PourStdout(ctx, k); !errors.Is(err, context.Canceled) || string(k.got) != "some\n" {
		t.Errorf("%q, %v", k.got, err)
	}
	if _, err := p.WriteStdin(t.Context(), []byte("\n")); err != nil {
		t.Error(err)
	}
	if out := readAll(t, p.ReadStdout, 100); string(out) != "more\n" {
		t.Errorf("after that %q", out)
	}
}

func TestWhoHasNoRoomHoldsUpThePouringAlone(t *testing.T) {
	p := start(t, "echo some")
	full := errors.New("full")
	k := &taking{piece: make([]byte, 100), ready: func(context.Context) error {
		if !p.BeingRead() {
			t.Error("nobody is reading")
		}
		return full
	}}
	if err := p.PourStdout(t.Context(), k); err != full {
		t.Error(err)
	}
	if p.BeingRead() {
		t.Error("somebody is still reading")
	}
	if out := readAll(t, p.ReadStdout, 100); string(out) != "some\n" {
		t.Errorf("after that %q", out)
	}
}
