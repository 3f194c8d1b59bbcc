package shimv2

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"sync"
	"time"

	eventsapi "github.com/containerd/containerd/api/services/ttrpc/events/v1"
	"github.com/containerd/containerd/api/types"
	"github.com/containerd/ttrpc"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/timestamppb"
)

const (
	// maxEvents bounds what is kept for a containerd that is away. A pod makes a handful a minute.
	maxEvents = 1024
	// publishTimeout bounds one call.
	publishTimeout = 5 * time.Second
	// Waits between attempts double from retryMin to retryMax.
	retryMin = 20 * time.Millisecond
	retryMax = 2 * time.Second

	// namespaceHeader is how containerd's ttrpc services are told the namespace.
	namespaceHeader = "containerd-namespace-ttrpc"
)

// Publisher sends events to containerd, in order, each until it has arrived: a restart of containerd delays them and
// loses none, but one whose answer was cut off arrives twice. With no address, as under CRI-O, they are only logged.
type Publisher struct {
	address   string
	namespace string
	log       *slog.Logger

	// wake has a token when there is something new for the sender.
	wake   chan struct{}
	cancel context.CancelFunc
	done   chan struct{}

	mu      sync.Mutex
	queue   []*types.Envelope // guarded by mu; the first may be on its way
	emptied chan struct{}     // guarded by mu; closed when the queue runs empty, nil if nobody waits
	dropped int               // guarded by mu
}

// NewPublisher starts the sender, which Close ends.
func NewPublisher(address, namespace string, log *slog.Logger) *Publisher {
	ctx, cancel := context.WithCancel(context.Background())
	p := &Publisher{
		address: address, namespace: namespace, log: log,
		wake: make(chan struct{}, 1), cancel: cancel, done: make(chan struct{}),
	}
	go func() {
		defer close(p.done)
		p.send(ctx)
	}()
	return p
}

// Publish queues an event behind those before it. It never waits. When containerd has been away for so long that the
// queue is full, the oldest goes, but before any other the oldest report of an OOM kill.
func (p *Publisher) Publish(topic string, event proto.Message) {
	value, err := proto.Marshal(event)
	if err != nil {
		p.log.Error("encode an event", "topic", topic, "error", err)
		return
	}
	p.log.Debug("event", "topic", topic, "event", event)
	if p.address == "" {
		return
	}
	envelope := &types.Envelope{
		Timestamp: timestamppb.Now(),
		Namespace: p.namespace,
		Topic:     topic,
		// containerd's type URLs are bare names.
		Event: &anypb.Any{TypeUrl: string(event.ProtoReflect().Descriptor().FullName()), Value: value},
	}
	p.mu.Lock()
	if len(p.queue) >= maxEvents {
		at := p.leastMissed()
		p.queue = slices.Delete(p.queue, at, at+1)
		p.dropped++
	}
	p.queue = append(p.queue, envelope)
	p.mu.Unlock()
	select {
	case p.wake <- struct{}{}:
	default:
	}
}

// topicOOM is of the only events of which a guest can make as many as it likes; they must not push out an exit.
const topicOOM = "/tasks/oom"

// leastMissed is the place of the event to drop. It is called with mu held.
func (p *Publisher) leastMissed() int {
	return max(0, slices.IndexFunc(p.queue, func(e *types.Envelope) bool { return e.GetTopic() == topicOOM }))
}

// Flush waits until everything has arrived.
func (p *Publisher) Flush(ctx context.Context) error {
	p.mu.Lock()
	if len(p.queue) == 0 {
		p.mu.Unlock()
		return nil
	}
	if p.emptied == nil {
		p.emptied = make(chan struct{})
	}
	emptied := p.emptied
	p.mu.Unlock()
	select {
	case <-emptied:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("containerd did not take the last events: %w", ctx.Err())
	}
}

// Close ends the sender. What is still queued is lost; Flush first.
func (p *Publisher) Close() {
	p.cancel()
	<-p.done
}

// send is the sender's loop.
func (p *Publisher) send(ctx context.Context) {
	var client *ttrpc.Client
	defer func() {
		if client != nil {
			client.Close()
		}
	}()
	retry := retryMin
	for {
		next := p.head()
		if next == nil {
			select {
			case <-p.wake:
				continue
			case <-ctx.Done():
				return
			}
		}
		var err error
		if client == nil {
			client, err = p.dial(ctx)
		}
		if err == nil {
			err = p.forward(ctx, client, next)
		}
		if err == nil {
			p.sent(next)
			retry = retryMin
			continue
		}
		if client != nil {
			client.Close()
			client = nil
		}
		p.log.Warn("containerd did not take an event; trying again", "topic", next.GetTopic(), "error", err)
		select {
		case <-time.After(retry):
			retry = min(2*retry, retryMax)
		case <-ctx.Done():
			return
		}
	}
}

func (p *Publisher) head() *types.Envelope {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.queue) == 0 {
		return nil
	}
	return p.queue[0]
}

// sent takes the event out of the queue, unless it was dropped meanwhile.
func (p *Publisher) sent(e *types.Envelope) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.queue) > 0 && p.queue[0] == e {
		p.queue[0] = nil
		p.queue = p.queue[1:]
	}
	if p.dropped > 0 {
		p.log.Error("events were dropped while containerd was away", "events", p.dropped)
		p.dropped = 0
	}
	if len(p.queue) == 0 && p.emptied != nil {
		close(p.emptied)
		p.emptied = nil
	}
}

func (p *Publisher) dial(ctx context.Context) (*ttrpc.Client, error) {
	d := net.Dialer{Timeout: dialTimeout}
	conn, err := d.DialContext(ctx, "unix", socketPath(p.address))
	if err != nil {
		return nil, err
	}
	return ttrpc.NewClient(conn), nil
}

func (p *Publisher) forward(ctx context.Context, client *ttrpc.Client, e *types.Envelope) error {
	ctx, cancel := context.WithTimeout(ctx, publishTimeout)
	defer cancel()
	md := ttrpc.MD{}
	md.Set(namespaceHeader, p.namespace)
	_, err := eventsapi.NewTTRPCEventsClient(client).Forward(ttrpc.WithMetadata(ctx, md), &eventsapi.ForwardRequest{Envelope: e})
	return err
}
