package shimv2

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/containerd/containerd/api/events"
	"google.golang.org/protobuf/proto"
)

func quiet() *slog.Logger { return slog.New(slog.NewTextHandler(io.Discard, nil)) }

func publish(p *Publisher, from, to int) {
	for i := from; i < to; i++ {
		p.Publish("/tasks/exit", &events.TaskExit{ContainerID: fmt.Sprintf("c%d", i)})
	}
}

// wantEvents fails unless the events from..to-1 arrive, in order. Where a connection was cut, one may come twice.
func wantEvents(t *testing.T, p *Publisher, s *eventsServer, from, to int) {
	t.Helper()
	if err := p.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	next := from
	for _, e := range s.await(to - from) {
		var exit events.TaskExit
		if err := proto.Unmarshal(e.GetEvent().GetValue(), &exit); err != nil {
			t.Fatal(err)
		}
		switch exit.GetContainerID() {
		case fmt.Sprintf("c%d", next):
			next++
		case fmt.Sprintf("c%d", next-1):
		default:
			t.Fatalf("got the event of %s, want that of c%d", exit.GetContainerID(), next)
		}
		if e.GetEvent().GetTypeUrl() != "containerd.events.TaskExit" || e.GetNamespace() != "test" ||
			e.GetTopic() != "/tasks/exit" || time.Since(e.GetTimestamp().AsTime()) > time.Minute {
			t.Fatalf("envelope %v", e)
		}
	}
	if next != to {
		t.Errorf("the last event was that of c%d, want c%d", next-1, to-1)
	}
}

func TestEventsArriveInOrder(t *testing.T) {
	t.Parallel()
	s := newEventsServer(t, filepath.Join(t.TempDir(), "s"))
	p := NewPublisher(s.path, "test", quiet())
	defer p.Close()
	publish(p, 0, 500)
	wantEvents(t, p, s, 0, 500)
}

func TestAGuestsOOMReportsPushOutNoExit(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "s") // containerd is away
	p := NewPublisher(path, "test", quiet())
	defer p.Close()
	const exits = 10
	publish(p, 0, exits)
	for range 2 * maxEvents {
		p.Publish(topicOOM, &events.TaskOOM{ContainerID: "c0"})
	}
	s := newEventsServer(t, path)
	if err := p.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	got := s.await(maxEvents)
	for i, e := range got[:exits] {
		if e.GetTopic() != "/tasks/exit" {
			t.Fatalf("event %d of %d is %s, want the exits first, and all of them", i, len(got), e.GetTopic())
		}
	}
	if len(got) > maxEvents+1 { // one may come twice
		t.Errorf("%d events were kept, want %d at most", len(got), maxEvents)
	}
}

func TestEventsSurviveARestartOfContainerd(t *testing.T) {
	t.Parallel()
	s := newEventsServer(t, filepath.Join(t.TempDir(), "s"))
	p := NewPublisher(s.path, "test", quiet())
	defer p.Close()
	publish(p, 0, 10)
	s.await(10)
	s.stop()
	publish(p, 10, 20)
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if p.Flush(ctx) == nil {
		t.Error("the flush succeeded with nobody there")
	}
	s.start()
	publish(p, 20, 30)
	wantEvents(t, p, s, 0, 30)
}

func TestAnEventThatIsRefusedIsSentAgain(t *testing.T) {
	t.Parallel()
	s := newEventsServer(t, filepath.Join(t.TempDir(), "s"))
	s.fail = 3
	p := NewPublisher(s.path, "test", quiet())
	defer p.Close()
	publish(p, 0, 5)
	wantEvents(t, p, s, 0, 5)
}

func TestOfTooManyEventsTheOldestGo(t *testing.T) {
	t.Parallel()
	s := newEventsServer(t, filepath.Join(t.TempDir(), "s"))
	s.stop()
	var log strings.Builder
	p := NewPublisher(s.path, "test", slog.New(slog.NewTextHandler(&log, nil)))
	publish(p, 0, maxEvents+100)
	s.start()
	wantEvents(t, p, s, 100, maxEvents+100)
	p.Close()
	if !strings.Contains(log.String(), "events=100") {
		t.Errorf("the loss is not in the log:\n%s", &log)
	}
}

func TestWithoutAnAddressEventsAreNotKept(t *testing.T) {
	t.Parallel()
	p := NewPublisher("", "test", quiet())
	defer p.Close()
	publish(p, 0, 10)
	if err := p.Flush(t.Context()); err != nil {
		t.Error(err)
	}
}
