package csi

import (
	"context"
	"fmt"
	"math"
	"path/filepath"

	"github.com/container-storage-interface/spec/lib/go/csi"

	"github.com/katadirect/katadirect/internal/filesystem"
	"github.com/katadirect/katadirect/pkg/csi/health"
	"github.com/katadirect/katadirect/pkg/csi/hostmount"
	"github.com/katadirect/katadirect/pkg/csi/pool"
	"github.com/katadirect/katadirect/pkg/csi/stage"
)

// hostSilent: a file system that the host has mounted does not answer.
const hostSilent = "HostNotResponding"

// hostGauge looks at a volume that the host has mounted. One that it has not, the next gauge reads.
type hostGauge struct {
	staged *stage.Store
	hosts  *hostmount.Mounts
	next   gauge
}

func (g hostGauge) read(ctx context.Context, v pool.Volume) (reading, error) {
	present, err := g.staged.Get(ctx, v.ID)
	if err != nil || !present.OnHost {
		return g.next.read(ctx, v)
	}
	staging, err := realPath(present.StagingPath)
	if err != nil {
		return g.next.read(ctx, v)
	}
	mounted, err := filesystem.MountAt(staging)
	if err != nil {
		return g.next.read(ctx, v)
	}
	usage, problems, err := g.hosts.Look(ctx, mounted, filepath.Base(mounted.Source), !present.ReadOnly)
	if err != nil {
		return reading{
			unknown: failf(ErrGuest, "volume %s: %w", v.ID, err),
			problems: []health.Problem{{Severity: health.Inaccessible, Reason: hostSilent,
				Message: fmt.Sprintf("the volume is mounted on the host, and %v", err)}},
		}, nil
	}
	return reading{usage: hostUsage(usage), problems: health.FromMount(problems)}, nil
}

// hostUsage leaves inodes out where the file system makes them as it needs them.
func hostUsage(u filesystem.Usage) []*csi.VolumeUsage {
	of := func(total, available, used uint64, unit csi.VolumeUsage_Unit) *csi.VolumeUsage {
		return &csi.VolumeUsage{
			Total: clamp(total, math.MaxInt64), Available: clamp(available, math.MaxInt64), Used: clamp(used, math.MaxInt64), Unit: unit,
		}
	}
	usage := []*csi.VolumeUsage{of(u.Total, u.Available, u.Used, csi.VolumeUsage_BYTES)}
	if u.Inodes > 0 {
		usage = append(usage, of(u.Inodes, u.InodesFree, u.InodesUsed, csi.VolumeUsage_INODES))
	}
	return usage
}
