package main

import (
	"bytes"
	"net/http"
	"os"
	"syscall"
	"testing"
	"time"
)

// A guest never answers; the user does not have to wait for the time-out.
func TestSignalEndsACommandAtOnce(t *testing.T) {
	for signal, want := range map[os.Signal]int{syscall.SIGINT: 130, syscall.SIGTERM: 143} {
		n := newNode(t)
		n.claimed(t, "v", "s1")
		asked, end := make(chan struct{}, 1), make(chan struct{})
		n.serve(t, "s1", func(w http.ResponseWriter, r *http.Request) {
			asked <- struct{}{}
			<-end
		})
		cmd := n.command("direct-volume", "stats", "--volume-path", "/v")
		var stderr bytes.Buffer
		cmd.Stderr = &stderr
		must(cmd.Start())
		<-asked
		start := time.Now()
		// Twice, as make and timeout(1) do.
		must(cmd.Process.Signal(signal), cmd.Process.Signal(signal))
		cmd.Wait()
		close(end)
		if got := cmd.ProcessState.ExitCode(); got != want || time.Since(start) > 5*time.Second {
			t.Errorf("%v: status %d after %v: %s", signal, got, time.Since(start), stderr.String())
		}
	}
}
