package csi

import (
	"context"
	"errors"
	"log/slog"
	"maps"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/katadirect/katadirect/pkg/csi/kube"
	"github.com/katadirect/katadirect/pkg/csi/pool"
	"github.com/katadirect/katadirect/pkg/directvolume"
)

// classesOfCluster stands in for Kubernetes, to fail on request.
type classesOfCluster struct {
	seen chan kube.AttributedVolume

	mu      sync.Mutex
	classes map[string]map[string]string // guarded by mu, as what follows
	asked   int
	fail    error
	events  []string
}

func (c *classesOfCluster) WatchAttributes(ctx context.Context, driver string, ours func(string) bool, seen func(kube.AttributedVolume)) error {
	for {
		select {
		case v := <-c.seen:
			if driver == DriverName && ours(v.Handle) {
				seen(v)
			}
		case <-ctx.Done():
			return nil
		}
	}
}

func (c *classesOfCluster) AttributesClass(_ context.Context, name, _ string) (map[string]string, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.asked++
	if class, found := c.classes[name]; found && c.fail == nil {
		return maps.Clone(class), nil
	}
	return nil, errors.Join(c.fail, kube.ErrNotFound)
}

func (c *classesOfCluster) Warn(_ context.Context, v kube.AttributedVolume, reason, message string) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.events = append(c.events, v.Claim.Name+" "+reason+": "+message)
	return nil
}

func (c *classesOfCluster) warnings() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return append([]string(nil), c.events...)
}

// follow runs classes on a host's driver until the test ends.
func (h *host) follow(cluster *classesOfCluster) {
	h.t.Helper()
	d := h.driver
	l := limiter{pool: d.pool, staged: d.checkup.staged, records: records{h.store()}, guests: guests{h.sandboxes()}, log: slog.New(slog.DiscardHandler), watched: true}
	c := newClasses(cluster, l, d.controller.(serialController).locks, slog.New(slog.DiscardHandler))
	c.retry = [2]time.Duration{time.Millisecond, 10 * time.Millisecond}
	ctx, end := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() { defer close(ended); c.run(ctx) }()
	h.t.Cleanup(func() { end(); <-ended })
}

func (c *classesOfCluster) has(v volume, class string) kube.AttributedVolume {
	seen := kube.AttributedVolume{Name: "pv-1", Handle: v.id, Class: class, Claim: corev1.ObjectReference{Namespace: "ns", Name: "claim-1"}}
	c.seen <- seen
	return seen
}

// eventually waits for something that happens by itself.
func eventually(t *testing.T, what string, is func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !is(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("it never happened: %s", what)
		}
	}
}

func (h *host) limits(v volume) pool.Limits {
	h.t.Helper()
	l, err := h.driver.pool.Limits(h.t.Context(), v.id)
	must(h.t, err)
	return l
}

func TestTheClassOnThePersistentVolumeIsAppliedByTheNodeThatHasIt(t *testing.T) {
	h := newHost(t)
	v, target := h.published("pvc")
	machine := &throttled{}
	h.runShim("sandbox1", map[string]http.HandlerFunc{directvolume.PathThrottle: machine.answer}).claim(target)
	cluster := &classesOfCluster{seen: make(chan kube.AttributedVolume), classes: map[string]map[string]string{
		"gold": {"katadirect.io/iops": "500"}, "silver": {"katadirect.io/iops": "100", "katadirect.io/bytesPerSecond": "1048576"},
	}}
	h.follow(cluster)
	cluster.seen <- kube.AttributedVolume{Handle: "kd-00000000-00000000000000000000000000000000", Class: "gold"}
	cluster.has(v, "gold")
	eventually(t, "the volume is gold", func() bool { return h.limits(v).Class == "gold" })
	if l := h.limits(v); l.IOPS != 500 || machine.last(t).IOPS != 500 || h.recorded(target) != "iops=500" {
		t.Errorf("%+v; the machine has %+v, the record %q", l, machine.last(t), h.recorded(target))
	}
	cluster.has(v, "silver")
	eventually(t, "the volume is silver", func() bool { return h.limits(v).Class == "silver" })
	if got := machine.last(t).String(); got != "iops=100,bytesPerSecond=1048576" {
		t.Errorf("the machine has %q", got)
	}

	eventually(t, "the driver is done with it", func() bool {
		release, taken := h.driver.controller.(serialController).locks.try(v.id)
		if taken != "" {
			return false
		}
		release()
		return true
	})

	// What is asked for directly is not undone by what the PersistentVolume said before, whoever is started anew.
	must(t, v.modify(map[string]string{"katadirect.io/iops": "77"}))
	cluster.has(v, "silver")
	cluster.has(v, "silver") // the first one is done with when this one is taken
	if l := h.limits(v); l.IOPS != 77 {
		t.Errorf("%+v", l)
	}
	if len(cluster.warnings()) != 0 {
		t.Errorf("warned: %v", cluster.warnings())
	}
}

func TestAClassThatCannotBeAppliedIsSaidOnceAndTriedAgain(t *testing.T) {
	h := newHost(t)
	v, target := h.published("pvc")
	must(t, v.modify(map[string]string{"katadirect.io/readIops": "50"}))
	cluster := &classesOfCluster{seen: make(chan kube.AttributedVolume), classes: map[string]map[string]string{
		"bad": {"katadirect.io/iopps": "1"}, "clash": {"katadirect.io/iops": "500"}, "good": {"katadirect.io/readIops": "60"},
	}}
	h.follow(cluster)
	for i, tc := range []struct{ class, says string }{
		{"missing", "does not know it"}, {"bad", "iopps"}, {"clash", "set one side to 0"},
	} {
		cluster.has(v, tc.class)
		eventually(t, "an event about "+tc.class, func() bool { return len(cluster.warnings()) == i+1 })
		time.Sleep(50 * time.Millisecond) // in which it is tried again several times
		events := cluster.warnings()
		if len(events) != i+1 || !strings.Contains(events[i], tc.says) || !strings.HasPrefix(events[i], "claim-1 "+notModified) {
			t.Errorf("%s: %q", tc.class, events)
		}
	}
	cluster.mu.Lock()
	cluster.classes["clash"]["katadirect.io/readIops"] = "0"
	cluster.mu.Unlock()
	eventually(t, "it is tried again", func() bool { return h.limits(v).IOPS == 500 })

	// A machine that does not take it is told of until it does, and the class counts as applied only then.
	var refuses sync.Mutex
	code, machine := http.StatusInternalServerError, &throttled{}
	h.runShim("sandbox1", map[string]http.HandlerFunc{directvolume.PathThrottle: func(w http.ResponseWriter, r *http.Request) {
		refuses.Lock()
		defer refuses.Unlock()
		if code != http.StatusOK {
			http.Error(w, "no", code)
			return
		}
		machine.answer(w, r)
	}}).claim(target)
	cluster.mu.Lock()
	cluster.classes["good"]["katadirect.io/iops"] = "0"
	cluster.mu.Unlock()
	cluster.has(v, "good")
	eventually(t, "an event about the machine", func() bool { return strings.Contains(strings.Join(cluster.warnings(), " "), "sandbox1") })
	if l := h.limits(v); l.Class == "good" {
		t.Errorf("%+v, and the machine has refused", l)
	}
	refuses.Lock()
	code = http.StatusOK
	refuses.Unlock()
	eventually(t, "the machine has it", func() bool { return h.limits(v).Class == "good" })
	if machine.last(t).ReadIOPS != 60 {
		t.Errorf("%+v", machine.last(t))
	}
}

func TestAVolumeThatIsBeingWorkedOnIsModifiedAfterwards(t *testing.T) {
	h := newHost(t)
	v := h.create("pvc")
	release, _ := h.driver.controller.(serialController).locks.try(v.id)
	cluster := &classesOfCluster{seen: make(chan kube.AttributedVolume), classes: map[string]map[string]string{"gold": {"katadirect.io/iops": "500"}}}
	h.follow(cluster)
	cluster.has(v, "gold")
	eventually(t, "it is tried again", func() bool { cluster.mu.Lock(); defer cluster.mu.Unlock(); return cluster.asked > 2 })
	if len(cluster.warnings()) != 0 || h.limits(v).Class != "" {
		t.Errorf("%v, %+v", cluster.warnings(), h.limits(v))
	}
	release()
	eventually(t, "the volume is gold", func() bool { return h.limits(v).Class == "gold" })
}

func TestAVolumeThatIsGoneIsLeftAlone(t *testing.T) {
	h := newHost(t)
	v := h.create("pvc")
	must(t, v.delete())
	cluster := &classesOfCluster{seen: make(chan kube.AttributedVolume), classes: map[string]map[string]string{"gold": {"katadirect.io/iops": "500"}}}
	h.follow(cluster)
	cluster.has(v, "gold")
	eventually(t, "it is looked at", func() bool { cluster.mu.Lock(); defer cluster.mu.Unlock(); return cluster.asked > 0 })
	time.Sleep(50 * time.Millisecond)
	cluster.mu.Lock()
	defer cluster.mu.Unlock()
	if cluster.asked != 1 || len(cluster.events) != 0 {
		t.Errorf("asked %d times, warned %v", cluster.asked, cluster.events)
	}
}

func TestAForeignVolumeIsLeftToItsNodeWhereThatWatches(t *testing.T) {
	h := newHost(t)
	l := limiter{pool: h.driver.pool, watched: true}
	must(t, l.leaveToItsNode("kd-00000000-00000000000000000000000000000000"))
}
