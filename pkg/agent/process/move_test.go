package process_test

import (
	"context"
	"crypto/sha256"
	"fmt"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/katadirect/katadirect/pkg/agent/process"
)

// moving makes of a method that moves into a pipe one that reads.
func moving(t *testing.T, move func(ctx context.Context, to, limit int) (int, error)) func(context.Context, int) ([]byte, error) {
	return func(ctx context.Context, limit int) ([]byte, error) {
		var ends [2]int
		if err := unix.Pipe2(ends[:], unix.O_CLOEXEC|unix.O_NONBLOCK); err != nil {
			t.Fatal(err)
		}
		if _, err := unix.FcntlInt(uintptr(ends[1]), unix.F_SETPIPE_SZ, process.DefaultPipeSize); err != nil {
			t.Fatal(err)
		}
		from, to := os.NewFile(uintptr(ends[0]), "from"), os.NewFile(uintptr(ends[1]), "to")
		defer from.Close()
		defer to.Close()
		n, err := move(ctx, ends[1], limit)
		if n == 0 || err != nil {
			return nil, err
		}
		data := make([]byte, n+1)
		if got, err := from.Read(data); got != n || err != nil {
			t.Errorf("%d bytes were moved, %d are there: %v", n, got, err)
		}
		return data[:n], nil
	}
}

func TestMovedOutputIsCompleteToTheLastByte(t *testing.T) {
	for _, limit := range []int{1000, process.DefaultPipeSize} {
		p := start(t, "head -c 3000001 /dev/urandom | tee /dev/stderr")
		stderr := make(chan []byte, 1)
		go func() { stderr <- readAll(t, moving(t, p.MoveStderr), limit) }()
		out := readAll(t, moving(t, p.MoveStdout), limit)
		if err := <-stderr; len(out) != 3000001 || sha256.Sum256(out) != sha256.Sum256(err) {
			t.Errorf("in pieces of %d: %d and %d bytes, or others", limit, len(out), len(err))
		}
		if !p.Drained() {
			t.Error("there is more")
		}
	}
}

func TestWhatAProcessHadWrittenAtItsExitIsMovedHoweverLate(t *testing.T) {
	// Something in the background holds the stream.
	p := start(t, "head -c 500000 /dev/zero; sleep 60 & echo end")
	if _, err := p.Wait(t.Context()); err != nil {
		t.Fatal(err)
	}
	out := readAll(t, moving(t, p.MoveStdout), 70_000)
	if len(out) != 500004 || !strings.HasSuffix(string(out), "end\n") {
		t.Errorf("%d bytes: %q", len(out), fmt.Sprintf("%.20s", out[max(0, len(out)-20):]))
	}
}

func TestMovingEndsWithItsContext(t *testing.T) {
	p := start(t, "sleep 60")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if n, err := moving(t, p.MoveStdout)(ctx, 1000); err == nil {
		t.Errorf("moved %d bytes", len(n))
	}
}
