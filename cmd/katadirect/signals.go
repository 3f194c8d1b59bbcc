package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"
	"time"
)

// interrupted is the cause of a context that a signal has ended.
type interrupted struct{ signal syscall.Signal }

func (i interrupted) Error() string { return i.signal.String() }

// oneSignal is how long signals count as the same one: timeout(1) and make both send theirs twice.
const oneSignal = 2 * time.Second

// withSignals returns a context that ends with the first SIGINT or SIGTERM, so that a command can take back what it
// has done. A later signal ends the process at once.
func withSignals(parent context.Context, stderr io.Writer) (context.Context, func()) {
	ctx, cancel := context.WithCancelCause(parent)
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	done := make(chan struct{})
	go func() {
		defer close(done)
		var first time.Time
		for received := range signals {
			if first.IsZero() {
				first = time.Now()
				fmt.Fprintf(stderr, "katadirect: %v: cleaning up; once more leaves everything as it is\n", received)
				cancel(interrupted{received.(syscall.Signal)})
			} else if time.Since(first) > oneSignal {
				os.Exit(exitSignal + int(received.(syscall.Signal)))
			}
		}
	}()
	return ctx, func() {
		if errors.As(context.Cause(ctx), new(interrupted)) {
			return // its twin may still come, and would kill the process before it exits with its own status
		}
		signal.Stop(signals)
		close(signals)
		<-done
		cancel(nil)
	}
}
