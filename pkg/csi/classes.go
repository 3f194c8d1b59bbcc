package csi

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	"k8s.io/client-go/util/workqueue"

	"github.com/katadirect/katadirect/pkg/csi/kube"
	"github.com/katadirect/katadirect/pkg/csi/pool"
)

// attributes is what classes need of Kubernetes; kube.Cluster has it.
type attributes interface {
	WatchAttributes(ctx context.Context, driver string, ours func(handle string) bool, seen func(kube.AttributedVolume)) error
	AttributesClass(ctx context.Context, name, driver string) (map[string]string, error)
	Warn(ctx context.Context, v kube.AttributedVolume, reason, message string) error
}

// notModified is the reason of the event that says that a volume does not have what its class says.
const notModified = "VolumeNotModified"

// How long a volume that could not be modified is left alone: from the first to the longest time.
const (
	firstRetry   = time.Second
	longestRetry = 5 * time.Minute
)

// classes give the volumes of this node what their VolumeAttributesClasses say. external-resizer asks one driver of the
// cluster to modify a volume; that one says yes for a volume of another node, and external-resizer then writes the class
// into the PersistentVolume. Here the node that has the volume sees it there.
//
// Which class a volume had last is kept with it. So a driver that is started anew does only what it has missed, and what
// was asked for meanwhile is not undone by what a PersistentVolume said before.
type classes struct {
	cluster attributes
	limiter limiter
	locks   *locks
	log     *slog.Logger
	retry   [2]time.Duration // first and longest

	mu     sync.Mutex
	latest map[string]kube.AttributedVolume // what is still to be done, by volume id; guarded by mu
	warned map[string]string                // the text of the last event, by volume id; guarded by mu
}

func newClasses(cluster attributes, l limiter, held *locks, log *slog.Logger) *classes {
	return &classes{
		cluster: cluster, limiter: l, locks: held, log: log, retry: [2]time.Duration{firstRetry, longestRetry},
		latest: map[string]kube.AttributedVolume{}, warned: map[string]string{},
	}
}

// run watches until ctx ends, and modifies one volume after the other. One that cannot be modified is tried again, less and
// less often.
func (c *classes) run(ctx context.Context) {
	queue := workqueue.NewTypedRateLimitingQueue(
		workqueue.NewTypedItemExponentialFailureRateLimiter[string](c.retry[0], c.retry[1]))
	var watching sync.WaitGroup
	watching.Go(func() {
		err := c.cluster.WatchAttributes(ctx, DriverName, c.limiter.pool.Local, func(v kube.AttributedVolume) {
			c.mu.Lock()
			c.latest[v.Handle] = v
			c.mu.Unlock()
			queue.Add(v.Handle)
		})
		if err != nil {
			c.log.ErrorContext(ctx, "VolumeAttributesClasses of PersistentVolumes are not seen", "error", err)
		}
		<-ctx.Done()
		queue.ShutDown()
	})
	for {
		id, end := queue.Get()
		if end {
			break
		}
		if c.modify(ctx, id) {
			queue.Forget(id)
		} else {
			queue.AddRateLimited(id)
		}
		queue.Done(id)
	}
	watching.Wait()
}

// modify does what is to be done for a volume, and reports whether nothing is left.
func (c *classes) modify(ctx context.Context, id string) (done bool) {
	c.mu.Lock()
	v, wanted := c.latest[id]
	c.mu.Unlock()
	if !wanted {
		return true
	}
	switch err := c.apply(ctx, v); {
	case errors.Is(err, ErrBusy), err != nil && ctx.Err() != nil:
		return false
	case errors.Is(err, pool.ErrNotFound): // deleted, and its PersistentVolume is about to be
		c.log.InfoContext(ctx, "a PersistentVolume is of a volume that is not there", "volume", id, "persistentVolume", v.Name)
	case err != nil:
		c.warn(ctx, v, err)
		return false
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.warned, id)
	if c.latest[id] != v {
		return false // it has changed meanwhile
	}
	delete(c.latest, id)
	return true
}

func (c *classes) apply(ctx context.Context, v kube.AttributedVolume) error {
	has, err := c.limiter.pool.Limits(ctx, v.Handle)
	if err == nil && has.Class == v.Class {
		return nil
	}
	parameters, err := c.cluster.AttributesClass(ctx, v.Class, DriverName)
	if err != nil {
		return err
	}
	change, err := parseChange(parameters)
	if err != nil {
		return err
	}
	release, _ := c.locks.try(v.Handle)
	if release == nil {
		return failf(ErrBusy, "another call for volume %s is under way", v.Handle)
	}
	defer release()
	if err := c.limiter.modify(ctx, v.Handle, change, &v.Class); err != nil {
		return err
	}
	c.log.InfoContext(ctx, "the volume has what its VolumeAttributesClass says", "volume", v.Handle, "class", v.Class)
	return nil
}

// warn says once what is wrong, in the log and in an event.
func (c *classes) warn(ctx context.Context, v kube.AttributedVolume, err error) {
	text := "VolumeAttributesClass " + v.Class + " is not applied to the volume yet: " + err.Error()
	c.mu.Lock()
	again := c.warned[v.Handle] == text
	c.warned[v.Handle] = text
	c.mu.Unlock()
	if again {
		return
	}
	c.log.WarnContext(ctx, "a volume does not have what its VolumeAttributesClass says", "volume", v.Handle, "class", v.Class, "error", err)
	if err := c.cluster.Warn(ctx, v, notModified, text); err != nil {
		c.log.WarnContext(ctx, "no event could be written", "volume", v.Handle, "error", err)
	}
}
