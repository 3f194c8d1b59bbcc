package csi

import (
	"context"
	"fmt"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"

	"github.com/katadirect/katadirect/pkg/csi/guestview"
	"github.com/katadirect/katadirect/pkg/csi/pool"
	"github.com/katadirect/katadirect/pkg/csi/stage"
	"github.com/katadirect/katadirect/pkg/csi/telemetry"
	"github.com/katadirect/katadirect/pkg/csi/trouble"
	"github.com/katadirect/katadirect/pkg/directvolume"
)

// observer says how the driver's volumes are, for metrics: from the host's own files and from what guests said, and the
// host saw in its mounts, before. It takes no locks that a call holds, and never asks a guest.
type observer struct {
	pool    *pool.Pool
	staged  *stage.Store
	records records
	views   *guestview.Views
	onHost  *hostViews

	troubles *trouble.Log
}

// State implements telemetry.Source.
func (o observer) State(ctx context.Context) (telemetry.State, error) {
	figures, err := o.pool.Figures(ctx)
	if err != nil {
		return telemetry.State{}, err
	}
	s := telemetry.State{
		Pool: telemetry.Pool{
			Path: o.pool.Dir(), SizeBytes: figures.TotalBytes, FreeBytes: figures.FreeBytes,
			PromisedBytes: figures.PromisedBytes, BookedBytes: figures.BookedBytes, TakenBytes: figures.TakenBytes,
			AvailableBytes: figures.AvailableBytes, Overcommit: figures.Overcommit, Short: figures.Shortage != "",
		},
		Damaged: figures.Damaged, Snapshots: figures.Snapshots,
	}
	now := time.Now()
	for _, v := range figures.Volumes {
		s.Volumes = append(s.Volumes, telemetry.Volume{
			ID: v.ID, Name: v.Name, FileSystem: v.FSType, SizeBytes: v.SizeBytes, AllocatedBytes: v.AllocatedBytes,
			Failing: o.troubles.Failing(v.ID, now), Guest: o.inUse(v.ID, v.SizeBytes),
		})
	}
	staged, err := o.staged.IDs(ctx)
	if err != nil {
		return telemetry.State{}, err
	}
	s.Staged = len(staged)
	return s, o.countRecords(ctx, &s)
}

// inUse is what a guest said last of a volume, or the host saw last where it has mounted it; nil if neither was asked
// since the driver started.
func (o observer) inUse(id string, sizeBytes int64) *telemetry.GuestState {
	last, seen := o.views.Last(id), o.onHost.last(id)
	switch {
	case seen.at.After(last.At):
		return hostState(seen)
	case !last.Known() && last.SilentSince.IsZero():
		return nil
	}
	g := &telemetry.GuestState{
		When: last.At, Silent: !last.SilentSince.IsZero(), Abnormal: last.Stats.Condition.Abnormal,
	}
	for _, p := range problemsOf(last.Stats) {
		g.Problems = append(g.Problems, p.Reason)
	}
	fill(g, usageOf(last.Stats, sizeBytes))
	return g
}

func hostState(seen hostView) *telemetry.GuestState {
	g := &telemetry.GuestState{When: seen.at, Abnormal: seen.silent || len(seen.problems) > 0}
	for _, p := range seen.problems {
		g.Problems = append(g.Problems, p.Reason)
	}
	if seen.silent {
		g.Problems = append(g.Problems, hostSilent)
	}
	fill(g, seen.usage)
	return g
}

func fill(g *telemetry.GuestState, usage []*csi.VolumeUsage) {
	for _, u := range usage {
		switch u.GetUnit() {
		case csi.VolumeUsage_BYTES:
			g.CapacityBytes, g.UsedBytes, g.AvailableBytes = u.GetTotal(), u.GetUsed(), u.GetAvailable()
		case csi.VolumeUsage_INODES:
			g.Inodes, g.InodesUsed = u.GetTotal(), u.GetUsed()
		}
	}
}

// countRecords counts the records and claims of the host, and notes which volumes machines have.
func (o observer) countRecords(ctx context.Context, s *telemetry.State) error {
	entries, err := o.records.store.List(ctx)
	if err != nil {
		return fmt.Errorf("list records: %w", err)
	}
	inMachine := map[string]bool{}
	for _, e := range entries {
		if len(e.Sandboxes) > 0 {
			inMachine[e.Record.Metadata[directvolume.MetadataVolumeID]] = true
		}
		if e.Err == nil {
			s.Records++
		} else {
			s.UnreadableRecords++
		}
		s.Claims += len(e.Sandboxes)
		s.StaleClaims += len(e.Stale)
	}
	for i := range s.Volumes {
		s.Volumes[i].InMachine = inMachine[s.Volumes[i].ID]
	}
	return nil
}
