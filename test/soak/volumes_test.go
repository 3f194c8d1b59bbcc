package soak

import (
	"context"
	"fmt"
	"math/rand/v2"
	"time"
)

const (
	// maxSize is where growing ends. Pools are thin, and most of it is never written.
	maxSize = 20 * gibibyte
	// pace is how long the pod's own worker rests between two steps.
	pace = time.Second
)

// actions of what is the pod's and not one container's.
func (p *pod) actions() []action {
	all := []action{
		{"resize", 4, p.resize},
		{"stats", 4, p.stats},
		{"snapshot", 2, p.snapshot},
		{"config update", 3, func(context.Context, *rand.Rand) error { return p.config.update() }},
	}
	for i, a := range all {
		all[i].do = func(ctx context.Context, r *rand.Rand) error {
			time.Sleep(pace)
			return a.do(ctx, r)
		}
	}
	return all
}

func (p *pod) resize(ctx context.Context, r *rand.Rand) error {
	v := p.volumes[r.IntN(len(p.volumes))]
	size := v.SizeBytes + int64(1+r.IntN(64))<<20
	if size > maxSize {
		return errNotNow
	}
	if err := v.Expand(ctx, p.pod.UID, size); err != nil {
		return err
	}
	return p.statsOf(ctx, v)
}

func (p *pod) stats(ctx context.Context, r *rand.Rand) error {
	return p.statsOf(ctx, p.volumes[r.IntN(len(p.volumes))])
}

func (p *pod) statsOf(ctx context.Context, v *volume) error {
	u, err := v.Stats(ctx, p.pod.UID)
	if err == nil && (u.Total > v.SizeBytes || u.Used > u.Total || u.Available > u.Total || u.Total < v.SizeBytes*8/10) {
		err = fmt.Errorf("%s has %d bytes, and the statistics are %+v", v.Name, v.SizeBytes, u)
	}
	return err
}
