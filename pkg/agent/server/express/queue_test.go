package express

import (
	"context"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/containerd/ttrpc"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// Whoever is quick must not overtake: the answers are pieces of one stream.
func TestOneQueueIsWorkedOffInItsOrder(t *testing.T) {
	const requests = 50
	began, seen := make(chan int, requests), make(chan int)
	c := serve(t, func(req *ttrpc.Request) *Work {
		var n int
		if _, err := fmt.Sscan(req.Method, &n); err != nil {
			return nil
		}
		defer func() { seen <- n }()
		return &Work{Queue: "one", Do: func(context.Context) Answer {
			time.Sleep(time.Duration(n%3) * time.Millisecond)
			began <- n
			return Answer{}
		}}
	})
	for n := range requests {
		go func() {
			_ = c.Call(context.Background(), "test", fmt.Sprint(n), wrapperspb.Bytes(nil), &wrapperspb.BytesValue{})
		}()
		<-seen
	}
	for want := range requests {
		if got := <-began; got != want {
			t.Fatalf("%d was done when it was the turn of %d", got, want)
		}
	}
}

func TestWhoStopsWaitingKeepsItsPlace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := newQueues()
		first, second, third := q.join("a"), q.join("a"), q.join("a")
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if err := second.wait(ctx); err == nil {
			t.Error("the second did not wait for the first")
		}
		go second.leave()
		var order []string
		done := make(chan struct{})
		go func() {
			defer close(done)
			if err := third.wait(t.Context()); err != nil {
				t.Error(err)
			}
			order = append(order, "third")
			third.leave()
		}()
		synctest.Wait()
		order = append(order, "first")
		first.leave()
		<-done
		if fmt.Sprint(order) != "[first third]" {
			t.Errorf("in the order %v", order)
		}
		if err := q.join("b").wait(t.Context()); err != nil {
			t.Errorf("another queue: %v", err)
		}
		if _, left := q.last["a"]; left {
			t.Error("a queue is left that nobody stands in")
		}
	})
}
