package csi

import (
	"context"
	"errors"
	"math"
	"sync"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"

	"github.com/katadirect/katadirect/pkg/csi/pool"
	"github.com/katadirect/katadirect/pkg/directvolume"
)

// lastStats keeps what guests said last about their volumes. It is memory only: after a restart of the driver the
// next answer of a guest fills it. The zero value is ready.
type lastStats struct {
	mu sync.Mutex
	by map[string]knownStats // by volume id; guarded by mu
}

type knownStats struct {
	usage []*csi.VolumeUsage
	when  time.Time
}

func (l *lastStats) remember(id string, usage []*csi.VolumeUsage) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.by == nil {
		l.by = map[string]knownStats{}
	}
	l.by[id] = knownStats{usage: usage, when: time.Now()}
}

func (l *lastStats) get(id string) (knownStats, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	known, found := l.by[id]
	return known, found
}

func (l *lastStats) forget(id string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.by, id)
}

// NodeGetVolumeStats says how full the volume is: as the guest sees it, within statsTimeout. When there is no machine
// on it, or the guest does not answer in time, it repeats what the guest said last. When the guest never said
// anything it says how much of the image is in use, in bytes only.
func (n *node) NodeGetVolumeStats(ctx context.Context, r *csi.NodeGetVolumeStatsRequest) (*csi.NodeGetVolumeStatsResponse, error) {
	id := r.GetVolumeId()
	if err := pool.ValidateID(id); err != nil {
		return nil, err
	}
	if r.GetVolumePath() == "" {
		return nil, failf(ErrInvalidArgument, "the volume path is missing")
	}
	v, err := n.pool.Get(ctx, id)
	if err != nil {
		return nil, err
	}
	if err := n.checkAt(ctx, id, r.GetVolumePath()); err != nil {
		return nil, err
	}
	usage, err := n.usage(ctx, v)
	if err != nil {
		return nil, err
	}
	return &csi.NodeGetVolumeStatsResponse{Usage: usage}, nil
}

func (n *node) usage(ctx context.Context, v pool.Volume) ([]*csi.VolumeUsage, error) {
	guestErr := n.askGuest(ctx, v)
	known, found := n.stats.get(v.ID)
	if guestErr != nil && !errors.Is(guestErr, directvolume.ErrNoSandbox) {
		if !found {
			return nil, failf(ErrGuest, "the guest that has volume %s does not answer: %w", v.ID, guestErr)
		}
		n.log.WarnContext(ctx, "the guest does not answer; these stats are old",
			"volume", v.ID, "age", time.Since(known.when), "error", guestErr)
	}
	if found {
		return known.usage, nil
	}
	return n.usageOfImage(ctx, v)
}

// askGuest asks the sandbox that has the volume and remembers the answer. ErrNoSandbox says that none has it, or that
// its machine is only starting or already ending and has no management socket.
func (n *node) askGuest(ctx context.Context, v pool.Volume) error {
	publications, err := n.records.of(ctx, v)
	if err != nil {
		return err
	}
	for _, p := range publications {
		if len(p.sandboxes) == 0 {
			continue
		}
		stats, err := n.guests.stats(ctx, p.sandboxes[0], p.record.Device)
		if err != nil {
			return err
		}
		n.stats.remember(v.ID, usageOf(stats))
		return nil
	}
	return directvolume.ErrNoSandbox
}

func usageOf(stats directvolume.VolumeStats) []*csi.VolumeUsage {
	units := map[directvolume.Unit]csi.VolumeUsage_Unit{
		directvolume.UnitBytes: csi.VolumeUsage_BYTES, directvolume.UnitInodes: csi.VolumeUsage_INODES,
	}
	var usage []*csi.VolumeUsage
	for _, u := range stats.Usage {
		if unit, known := units[u.Unit]; known {
			usage = append(usage, &csi.VolumeUsage{
				Available: clamp(u.Available), Total: clamp(u.Total), Used: clamp(u.Used), Unit: unit,
			})
		}
	}
	return usage
}

// clamp fits what a guest says into what CSI can say. A negative number would be an invalid answer.
func clamp(n uint64) int64 { return int64(min(n, math.MaxInt64)) }

func (n *node) usageOfImage(ctx context.Context, v pool.Volume) ([]*csi.VolumeUsage, error) {
	usedBytes, err := n.pool.Usage(ctx, v.ID)
	if err != nil {
		return nil, err
	}
	return []*csi.VolumeUsage{{
		Total: v.SizeBytes, Used: usedBytes, Available: v.SizeBytes - usedBytes, Unit: csi.VolumeUsage_BYTES,
	}}, nil
}
