package csi

import (
	"context"
	"errors"
	"fmt"
	"math"
	"net/http"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"

	"github.com/katadirect/katadirect/pkg/csi/guestview"
	"github.com/katadirect/katadirect/pkg/csi/health"
	"github.com/katadirect/katadirect/pkg/csi/pool"
	"github.com/katadirect/katadirect/pkg/directvolume"
)

// reading is what a gauge says of a volume.
type reading struct {
	// usage is how full it is; nil if that is not known, and then unknown says why.
	usage   []*csi.VolumeUsage
	unknown error
	// at is when the host has seen that; zero where a guest has said it, or nobody.
	at time.Time
	// problems are what is wrong with it in its use. What is wrong with its image is the pool's to say.
	problems []health.Problem
}

// gauge reads how full a volume is and how it fares in its use, within a bounded time. Who mounts the volume decides
// which one: a machine's guest, the host, or nobody for a raw block volume.
type gauge interface {
	read(ctx context.Context, v pool.Volume) (reading, error)
}

// guestGauge asks the guest that has a direct volume. With no machine on it, or a guest that does not answer, it says
// what is known from before; without that, what the image takes of the pool.
type guestGauge struct {
	pool         *pool.Pool
	publications publicationsOf
	guests       guests
	views        *guestview.Views
}

func (g guestGauge) read(ctx context.Context, v pool.Volume) (reading, error) {
	publications, err := g.publications(ctx, v)
	if err != nil {
		return reading{}, err
	}
	for _, p := range publications {
		if len(p.sandboxes) == 0 {
			continue
		}
		sandbox := p.sandboxes[0]
		view := g.views.Look(ctx, v.ID, sandbox, func(ctx context.Context) (directvolume.VolumeStats, error) {
			return g.guests.stats(ctx, sandbox, p.record.Device)
		})
		if !idle(view.Err) {
			return g.inMachine(v, sandbox, view), nil
		}
		break
	}
	return g.inNoMachine(ctx, v)
}

// idle reports whether an error says that the guest has not mounted the volume: the machine is only starting or already
// ending, or none of its containers uses the volume.
func idle(err error) bool {
	answer := (*directvolume.StatusError)(nil)
	return errors.Is(err, directvolume.ErrNoSandbox) || errors.As(err, &answer) && answer.Code == http.StatusConflict
}

func (g guestGauge) inMachine(v pool.Volume, sandbox string, view guestview.View) reading {
	r := reading{problems: problemsOf(view.Stats)}
	if view.Known() {
		r.usage = usageOf(view.Stats, v.SizeBytes)
	}
	if view.Err == nil {
		if r.usage == nil {
			r.unknown = failf(ErrGuest, "the guest that has volume %s does not say how full it is", v.ID)
		}
		return r
	}
	r.unknown = failf(ErrGuest, "the guest that has volume %s does not answer: %w", v.ID, view.Err)
	if p := silence(sandbox, view); p.Reason != "" {
		r.problems = append(r.problems, p)
	}
	return r
}

// silence says what it means that a guest has not answered. The zero value means that nothing follows from it.
func silence(sandbox string, view guestview.View) health.Problem {
	age := ageOf(view.At)
	answer := (*directvolume.StatusError)(nil)
	switch {
	case errors.As(view.Err, &answer) && answer.Code == http.StatusServiceUnavailable:
		return health.Problem{Severity: health.Inaccessible, Reason: health.MachineStopped,
			Message: fmt.Sprintf("sandbox %s: %s; %s", sandbox, answer.Message, age)}
	case !errors.Is(view.Err, guestview.ErrSilent):
		return health.Problem{Severity: health.Degraded, Reason: health.GuestUnable,
			Message: fmt.Sprintf("the guest of sandbox %s cannot tell how the volume is: %v; %s", sandbox, view.Err, age)}
	case !view.SilentSince.IsZero():
		return health.Problem{Severity: health.Inaccessible, Reason: health.GuestSilent,
			Message: fmt.Sprintf("the guest of sandbox %s has not answered for %s; %s",
				sandbox, time.Since(view.SilentSince).Round(time.Second), age)}
	}
	return health.Problem{}
}

// ageOf says how old it is what somebody who does not answer has said at that time, which is zero for never.
func ageOf(at time.Time) string {
	if at.IsZero() {
		return "nothing is known from before"
	}
	return fmt.Sprintf("what is known is %s old", time.Since(at).Round(time.Second))
}

func (g guestGauge) inNoMachine(ctx context.Context, v pool.Volume) (reading, error) {
	view := g.views.NoMachine(v.ID)
	if view.Known() {
		if usage := usageOf(view.Stats, v.SizeBytes); usage != nil {
			return reading{usage: usage, problems: health.Lasting(problemsOf(view.Stats))}, nil
		}
	}
	usage, err := usageOfImage(ctx, g.pool, v)
	return reading{usage: usage}, err
}

// rawGauge is for a raw block volume: what is on it is its user's, so only the size is known. The machine that may have
// it knows whether the device has had errors.
type rawGauge struct{ machine gauge }

func (g rawGauge) read(ctx context.Context, v pool.Volume) (reading, error) {
	r, err := g.machine.read(ctx, v)
	r.usage = []*csi.VolumeUsage{{Total: v.SizeBytes, Unit: csi.VolumeUsage_BYTES}}
	return r, err
}

func problemsOf(stats directvolume.VolumeStats) []health.Problem {
	if !stats.Condition.Abnormal {
		return nil
	}
	return health.FromGuest(stats.Condition.Message)
}

// usageOf fits what a guest says into what can be true: one usage in each unit, no more bytes than the volume has,
// nothing larger than the whole, and nothing negative, which would be no answer in CSI at all.
func usageOf(stats directvolume.VolumeStats, sizeBytes int64) []*csi.VolumeUsage {
	var usage []*csi.VolumeUsage
	for _, u := range []struct {
		unit directvolume.Unit
		csi  csi.VolumeUsage_Unit
		most int64
	}{
		{directvolume.UnitBytes, csi.VolumeUsage_BYTES, sizeBytes},
		{directvolume.UnitInodes, csi.VolumeUsage_INODES, math.MaxInt64},
	} {
		if said, found := stats.Of(u.unit); found {
			total := clamp(said.Total, u.most)
			usage = append(usage, &csi.VolumeUsage{
				Available: clamp(said.Available, total), Total: total, Used: clamp(said.Used, total), Unit: u.csi,
			})
		}
	}
	return usage
}

func clamp(n uint64, most int64) int64 { return int64(min(n, uint64(max(most, 0)))) }

// usageOfImage is what can be said of a volume that no guest has spoken of: in bytes only.
func usageOfImage(ctx context.Context, p *pool.Pool, v pool.Volume) ([]*csi.VolumeUsage, error) {
	usedBytes, err := p.Usage(ctx, v.ID)
	if err != nil {
		return nil, err
	}
	return []*csi.VolumeUsage{{
		Total: v.SizeBytes, Used: usedBytes, Available: v.SizeBytes - usedBytes, Unit: csi.VolumeUsage_BYTES,
	}}, nil
}
