package csi

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/katadirect/katadirect/pkg/csi/guestview"
	"github.com/katadirect/katadirect/pkg/csi/health"
	"github.com/katadirect/katadirect/pkg/csi/hostmount"
	"github.com/katadirect/katadirect/pkg/csi/pool"
	"github.com/katadirect/katadirect/pkg/csi/stage"
)

const (
	// listPatience bounds how long a list of the health of all volumes waits for all guests together.
	listPatience = 5 * time.Second
	// listAtOnce is how many volumes it looks at at a time.
	listAtOnce = 16
)

// checkup finds out how volumes and the pool are. Controller and node ask the same one.
type checkup struct {
	pool    *pool.Pool
	records records
	guests  guests
	views   *guestview.Views
	staged  *stage.Store
	hosts   *hostmount.Mounts
	onHost  *hostViews

	pooling chan struct{} // of 1; held while the pool is looked at
	probing chan struct{} // of 1; held while the pool's disk is asked for a sign of life
	looking sync.Map      // by volume id: since when somebody looks at it
	reading sync.Map      // by volume id: since when somebody reads how full it is
}

func newCheckup(p *pool.Pool, r records, g guests, v *guestview.Views, s *stage.Store, h *hostmount.Mounts) *checkup {
	return &checkup{pool: p, records: r, guests: g, views: v, staged: s, hosts: h, onHost: newHostViews(), pooling: make(chan struct{}, 1), probing: make(chan struct{}, 1)}
}

// gauge is the one for the volume, as it is staged.
func (c *checkup) gauge(v pool.Volume) gauge { return c.gaugeWith(v, c.records.of) }

// gaugeWith is gauge for a caller who has read the records.
func (c *checkup) gaugeWith(v pool.Volume, publications publicationsOf) gauge {
	guest := guestGauge{pool: c.pool, publications: publications, guests: c.guests, views: c.views}
	if isRaw(v) {
		return rawGauge{guest}
	}
	return hostGauge{staged: c.staged, hosts: c.hosts, views: c.onHost, next: guest}
}

// forget is for a volume that is deleted.
func (c *checkup) forget(id string) {
	c.views.Forget(id)
	c.onHost.forget(id)
}

// volume returns what is wrong with a volume, nothing for a healthy one. It returns pool.ErrInvalidID or
// pool.ErrNotFound for what is none.
func (c *checkup) volume(ctx context.Context, id string) ([]health.Problem, error) {
	return c.volumeWith(ctx, id, c.records.of)
}

// volumeWith returns within a bounded time.
func (c *checkup) volumeWith(ctx context.Context, id string, publications publicationsOf) ([]health.Problem, error) {
	problems, answered, err := within(ctx, &c.looking, id, func() ([]health.Problem, error) { return c.look(ctx, id, publications) })
	if !answered {
		return c.silent(), nil
	}
	return problems, err
}

// read reads the volume's gauge within a bounded time.
func (c *checkup) read(ctx context.Context, v pool.Volume) (reading, error) {
	r, answered, err := within(ctx, &c.reading, v.ID, func() (reading, error) { return c.gauge(v).read(ctx, v) })
	if !answered {
		return reading{}, failf(ErrDiskSilent, "how full volume %s is cannot be told: its disk, or that of the pool %s, has not answered within %s",
			v.ID, c.pool.Dir(), lookPatience)
	}
	return r, err
}

func (c *checkup) look(ctx context.Context, id string, publications publicationsOf) ([]health.Problem, error) {
	problems, err := c.pool.VolumeHealth(ctx, id)
	if err != nil {
		return nil, err
	}
	v, err := c.pool.Get(ctx, id)
	if err != nil {
		return problems, nil // damaged, and said already
	}
	r, err := c.gaugeWith(v, publications).read(ctx, v)
	problems = append(problems, r.problems...)
	return append(problems, limiter{pool: c.pool, staged: c.staged}.unheld(ctx, id)...), err
}

// diagnosis is one volume's.
type diagnosis struct {
	id       string
	problems []health.Problem
}

// sick returns up to most volumes (0 means all) with which something is wrong, in the order of their ids, from the
// first whose id comes after the one given, and reports whether there are more.
func (c *checkup) sick(ctx context.Context, after string, most int) (found []diagnosis, more bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, listPatience)
	defer cancel()
	all, _ := c.pool.Page(ctx, after, 0)
	publications, err := c.records.index(ctx)
	if err != nil {
		return nil, false, err
	}
	for len(all) > 0 {
		n := min(len(all), listAtOnce)
		for _, one := range c.each(ctx, all[:n], publications) {
			switch {
			case len(one.problems) == 0:
			case most > 0 && len(found) == most:
				return found, true, nil
			default:
				found = append(found, one)
			}
		}
		all = all[n:]
	}
	return found, false, nil
}

// each looks at some volumes at the same time. One that is deleted meanwhile is well.
func (c *checkup) each(ctx context.Context, volumes []pool.Volume, publications publicationsOf) []diagnosis {
	found := make([]diagnosis, len(volumes))
	var looks sync.WaitGroup
	for i, v := range volumes {
		looks.Go(func() {
			problems, err := c.volumeWith(ctx, v.ID, publications)
			if err != nil && !errors.Is(err, pool.ErrNotFound) {
				problems = append(problems, health.Problem{Severity: health.Degraded, Reason: health.GuestUnable,
					Message: fmt.Sprintf("the volume's health cannot be found out: %v", err)})
			}
			found[i] = diagnosis{id: v.ID, problems: problems}
		})
	}
	looks.Wait()
	return found
}

// storage returns what is wrong with the pool.
func (c *checkup) storage(ctx context.Context) []health.Problem {
	problems, answered := askDisk(ctx, c.pooling, c.pool.Health)
	if !answered {
		return c.silent()
	}
	return problems
}

// answers returns an error unless the pool's disk answers.
func (c *checkup) answers(ctx context.Context) error {
	err, answered := askDisk(ctx, c.probing, c.pool.Check)
	if !answered {
		return fmt.Errorf("its file system has not answered within %s", poolPatience)
	}
	return err
}

// silent is all that is known when the pool's disk does not answer.
func (c *checkup) silent() []health.Problem {
	return []health.Problem{{Severity: health.Inaccessible, Reason: health.PoolUnreachable,
		Message: fmt.Sprintf("the file system of the pool %s has not answered within %s", c.pool.Dir(), poolPatience)}}
}
