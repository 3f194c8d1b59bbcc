// Package soak works a pod hard for as long as one likes: four containers, two volumes and a configMap, and at random
// execs, output, checksummed writes, restarts, crashes, kills, updates, expansions and snapshots, several at a time.
// At the end everything that was written must be there, nothing may have grown, and nothing may be left.
//
//	make soak                      an hour
//	make soak SOAK=10m SEED=42     ten minutes of what that seed says
//
// "make test" runs a minute of it. What the seed fixes is what each worker does and in which order; how the workers'
// steps fall together is up to the machine.
package soak

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/katadirect/katadirect/internal/lab"
	"github.com/katadirect/katadirect/test/artifacts"
)

var (
	duration = flag.Duration("soak", time.Minute, "how long the pod is worked on")
	seed     = flag.Uint64("seed", 0, "what to do in which order; 0 takes a new one")
)

func TestMain(m *testing.M) { artifacts.Main(m) }

// stepLimit bounds one step of a worker, on a machine that has other things to do as well.
const stepLimit = 3 * time.Minute

// progress is how often a line says how far it is.
const progress = 15 * time.Second

func TestAPodSurvivesWhateverIsDoneToItsContainers(t *testing.T) {
	if *seed == 0 {
		*seed = rand.Uint64()
	}
	t.Logf("%s with -seed %d", *duration, *seed)
	p := newPod(t, artifacts.Node(t, lab.Debian))
	workers := p.workers(*seed)
	counts := &tally{done: map[string]int{}, began: time.Now()}

	// What is made once (pages, pools, caches) is made in the first part; only then does growth mean something.
	for _, w := range workers {
		w.everythingOnce()
	}
	work(t, workers, counts, *duration/4)
	before := p.measure(t)
	work(t, workers, counts, *duration*3/4)
	after := p.measure(t)
	for i := 0; i < 9 && len(growth(before, after)) > 0; i++ { // what is only late, on a busy host, will be over
		after = p.measure(t)
	}

	for _, complaint := range growth(before, after) {
		t.Error(complaint)
	}
	t.Logf("before: %v", before)
	t.Logf("after:  %v", after)
	p.checkLogs(t)
	p.finish(t)
}

// work lets the workers go on for so long, and fails the test with the first error of one of them.
func work(t *testing.T, workers []*worker, counts *tally, howLong time.Duration) {
	t.Helper()
	deadline := time.Now().Add(howLong)
	group, ctx := errgroup.WithContext(t.Context())
	for _, w := range workers {
		group.Go(func() error {
			for (time.Now().Before(deadline) || len(w.next) > 0) && ctx.Err() == nil {
				if err := w.step(ctx, counts); err != nil && ctx.Err() == nil {
					return err
				}
			}
			return nil
		})
	}
	ended := make(chan error, 1)
	go func() { ended <- group.Wait() }()
	tick := time.NewTicker(progress)
	defer tick.Stop()
	for {
		select {
		case err := <-ended:
			if err != nil {
				t.Fatalf("%v\nto repeat: -seed %d", err, *seed)
			}
			t.Log(counts)
			return
		case <-tick.C:
			t.Log(counts)
		}
	}
}

// worker does one thing after the other, chosen by its own random numbers.
type worker struct {
	name    string
	random  *rand.Rand
	actions []action
	steps   int
	next    []action // before the choice is free
}

// everythingOnce has the worker do each of its actions once before it chooses: what is only sometimes tried in a short
// run is not tried.
func (w *worker) everythingOnce() {
	for _, i := range w.random.Perm(len(w.actions)) {
		w.next = append(w.next, w.actions[i])
	}
}

// action is something that can be done at any time, the more often the larger its weight.
type action struct {
	name   string
	weight int
	do     func(context.Context, *rand.Rand) error
}

// errNotNow says that the action makes no sense at the moment.
var errNotNow = errors.New("not now")

func (w *worker) step(ctx context.Context, counts *tally) error {
	w.steps++
	a := w.choose()
	ctx, cancel := context.WithTimeout(ctx, stepLimit)
	defer cancel()
	err := a.do(ctx, w.random)
	if errors.Is(err, errNotNow) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("%s, step %d, %s: %w", w.name, w.steps, a.name, err)
	}
	counts.count(a.name)
	return nil
}

func (w *worker) choose() action {
	if len(w.next) > 0 {
		a := w.next[0]
		w.next = w.next[1:]
		return a
	}
	sum := 0
	for _, a := range w.actions {
		sum += a.weight
	}
	at := w.random.IntN(sum)
	for _, a := range w.actions {
		if at -= a.weight; at < 0 {
			return a
		}
	}
	panic("weights")
}

// tally counts what has been done.
type tally struct {
	began time.Time

	mu   sync.Mutex
	done map[string]int
	// order is that of the first time.
	order []string
}

func (c *tally) count(name string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.done[name] == 0 {
		c.order = append(c.order, name)
	}
	c.done[name]++
}

func (c *tally) String() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	var b strings.Builder
	fmt.Fprintf(&b, "after %s:", time.Since(c.began).Round(time.Second))
	for _, name := range c.order {
		fmt.Fprintf(&b, " %s %d", name, c.done[name])
	}
	return b.String()
}
