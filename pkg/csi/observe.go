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

// observer says how the driver's volumes are, for metrics: from the host's own files and from what guests said
// before. It takes no locks that a call holds, and never asks a guest.
type observer struct {
	pool    *pool.Pool
	staged  *stage.Store
	records records
	views   *guestview.Views

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
			Failing: o.troubles.Failing(v.ID, now), Guest: o.guestState(v.ID, v.SizeBytes),
		})
	}
	staged, err := o.staged.IDs(ctx)
	if err != nil {
		return telemetry.State{}, err
	}
	s.Staged = len(staged)
	return s, o.countRecords(ctx, &s)
}

// guestState is what a guest said last of a volume, nil if none was asked since the driver started.
func (o observer) guestState(id string, sizeBytes int64) *telemetry.GuestState {
	last := o.views.Last(id)
	if !last.Known() && last.SilentSince.IsZero() {
		return nil
	}
	g := &telemetry.GuestState{
		When: last.At, Silent: !last.SilentSince.IsZero(), Abnormal: last.Stats.Condition.Abnormal,
	}
	for _, p := range problemsOf(last.Stats) {
		g.Problems = append(g.Problems, p.Reason)
	}
	for _, u := range usageOf(last.Stats, sizeBytes) {
		switch u.GetUnit() {
		case csi.VolumeUsage_BYTES:
			g.CapacityBytes, g.UsedBytes, g.AvailableBytes = u.GetTotal(), u.GetUsed(), u.GetAvailable()
		case csi.VolumeUsage_INODES:
			g.Inodes, g.InodesUsed = u.GetTotal(), u.GetUsed()
		}
	}
	return g
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
