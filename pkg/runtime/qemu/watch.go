package qemu

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"time"

	"github.com/katadirect/katadirect/pkg/runtime/qmp"
)

// watch follows what happens to a running machine by itself, until its QMP session ends.
type watch struct {
	client  *qmp.Client
	onEvent func(Event)
	log     *slog.Logger

	faults     faults
	goroutines sync.WaitGroup
	shutdown   string        // reason of the SHUTDOWN event; valid after wait
	ending     chan struct{} // closed when QEMU has said that it ends
}

const (
	// While the machine stands still for want of space, it is let go on this often; QEMU stops it again if there
	// is still none.
	spaceRetry = 2 * time.Second
	// A machine that ran for this long after being let go on has its space.
	spaceSettled = 500 * time.Millisecond
	// A guest can fail as many requests as it likes; one report in this time is enough.
	diskErrorPause = 10 * time.Second
)

func startWatch(c Config, client *qmp.Client) *watch {
	w := &watch{client: client, onEvent: c.OnEvent, log: c.Log, ending: make(chan struct{})}
	// Each kind has a queue of its own, so that a flood of one hides no other.
	shutdown := client.Subscribe(1, qmp.Named("SHUTDOWN"))
	noSpace := client.Subscribe(1, func(e qmp.Event) bool { return ioError(e).stopsForSpace() })
	diskErrors := client.Subscribe(1, func(e qmp.Event) bool { return ioError(e).reachesGuest() })
	// Counted where they arrive: none of a flood may be missed. Nothing is queued, so there is nothing to close.
	client.Subscribe(1, func(e qmp.Event) bool { w.faults.see(e); return false })
	w.goroutines.Go(func() { w.followShutdown(shutdown) })
	w.goroutines.Go(func() { w.followSpace(noSpace) })
	w.goroutines.Go(func() { w.followErrors(diskErrors) })
	return w
}

// wait returns when the session has ended and everything it reported has been seen.
func (w *watch) wait() { w.goroutines.Wait() }

// shutdownReason is QEMU's word for why the machine ended, empty if it was not asked to end but killed.
func (w *watch) shutdownReason() string { return w.shutdown }

func (w *watch) followShutdown(events *qmp.Subscription) {
	e, err := events.Next(context.Background()) // ends with the session
	if err != nil {
		return
	}
	var data struct {
		Reason string `json:"reason"`
	}
	if err := e.Decode(&data); err == nil {
		w.shutdown = data.Reason
	}
	close(w.ending)
}

// followSpace lets the machine go on when there may be space again on the host.
func (w *watch) followSpace(events *qmp.Subscription) {
	for {
		e, err := events.Next(context.Background())
		if err != nil {
			return
		}
		disk := ioError(e).disk()
		w.onEvent(Event{EventStoppedNoSpace, "no space left on the host for the disk: the machine stands still until there is some", disk})
		if err := w.retrySpace(events); err != nil {
			return
		}
		w.onEvent(Event{EventResumed, "there is space again: the machine goes on", disk})
	}
}

// retrySpace returns when the machine runs again, or with the end of the session.
func (w *watch) retrySpace(events *qmp.Subscription) error {
	for {
		// QEMU may go on in between for another reason, a resized disk; letting it go on twice is no harm.
		if err := pauseUnlessDone(w.client, spaceRetry); err != nil {
			return err
		}
		if err := w.client.Run(context.Background(), "cont", nil, nil); err != nil {
			if err := w.client.Err(); err != nil {
				return err
			}
			w.log.Warn("machine without space does not go on", "error", err)
		}
		settled, cancel := context.WithTimeout(context.Background(), spaceSettled)
		_, err := events.Next(settled)
		ended := settled.Err() != nil
		cancel()
		switch {
		case err == nil: // still no space
		case ended:
			return nil
		default:
			return err
		}
	}
}

func pauseUnlessDone(client *qmp.Client, pause time.Duration) error {
	select {
	case <-client.Done():
		return client.Err()
	case <-time.After(pause):
		return nil
	}
}

func (w *watch) followErrors(events *qmp.Subscription) {
	for {
		e, err := events.Next(context.Background())
		if err != nil {
			return
		}
		data := ioError(e)
		w.onEvent(Event{EventDiskError, fmt.Sprintf("the guest got an error for a %s: %s", data.Operation, data.Reason), data.disk()})
		if err := pauseUnlessDone(w.client, diskErrorPause); err != nil {
			return
		}
	}
}

// blockError is the data of a BLOCK_IO_ERROR event.
type blockError struct {
	Node      string `json:"node-name"`
	Operation string `json:"operation"` // read or write
	Action    string `json:"action"`    // report, ignore or stop
	NoSpace   bool   `json:"nospace"`
	Reason    string `json:"reason"`
}

// ioError reads e, and gives the zero value for any other event.
func ioError(e qmp.Event) blockError {
	var b blockError
	if e.Name != "BLOCK_IO_ERROR" || e.Decode(&b) != nil {
		return blockError{}
	}
	return b
}

func (b blockError) stopsForSpace() bool { return b.Action == "stop" && b.NoSpace }
func (b blockError) reachesGuest() bool  { return b.Action == "report" }
func (b blockError) disk() string {
	if id, copying := strings.CutPrefix(b.Node, guardPrefix); copying {
		return id
	}
	return strings.TrimPrefix(b.Node, nodePrefix)
}
