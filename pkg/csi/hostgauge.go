package csi

import (
	"context"
	"fmt"
	"math"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"

	"github.com/katadirect/katadirect/internal/filesystem"
	"github.com/katadirect/katadirect/pkg/csi/health"
	"github.com/katadirect/katadirect/pkg/csi/hostmount"
	"github.com/katadirect/katadirect/pkg/csi/pool"
	"github.com/katadirect/katadirect/pkg/csi/stage"
)

// hostSilent: a file system that the host has mounted does not answer.
const hostSilent = "HostNotResponding"

// hostView is what the host saw last of a volume that it has mounted.
type hostView struct {
	usage    []*csi.VolumeUsage
	problems []health.Problem
	at       time.Time // zero if it never saw anything
	silent   bool      // it has looked since, and got no answer
}

// hostViews are those of all volumes. Memory only, as what guests have said.
type hostViews struct {
	mu   sync.Mutex
	byID map[string]hostView // guarded by mu
}

func newHostViews() *hostViews { return &hostViews{byID: map[string]hostView{}} }

func (h *hostViews) last(id string) hostView {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.byID[id]
}

func (h *hostViews) saw(id string, v hostView) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.byID[id] = v
}

// unanswered notes that a look got no answer, and returns what is known.
func (h *hostViews) unanswered(id string) hostView {
	h.mu.Lock()
	defer h.mu.Unlock()
	v := h.byID[id]
	v.silent = true
	h.byID[id] = v
	return v
}

// released is for a volume that the host has not mounted: what was wrong with the mount has gone with it.
func (h *hostViews) released(id string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if v, known := h.byID[id]; known {
		v.silent, v.problems = false, health.Lasting(v.problems)
		h.byID[id] = v
	}
}

// forget is for a volume that is deleted.
func (h *hostViews) forget(id string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.byID, id)
}

// hostGauge looks at a volume that the host has mounted. If its file system does not answer, it says what is known from
// before. One that the host has not mounted, the next gauge reads.
type hostGauge struct {
	staged *stage.Store
	hosts  *hostmount.Mounts
	views  *hostViews
	next   gauge
}

func (g hostGauge) read(ctx context.Context, v pool.Volume) (reading, error) {
	present, err := g.staged.Get(ctx, v.ID)
	if err != nil || !present.OnHost {
		g.views.released(v.ID)
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
		return g.unanswered(v, err), nil
	}
	seen := hostView{usage: hostUsage(usage), problems: health.FromMount(problems), at: time.Now()}
	g.views.saw(v.ID, seen)
	return reading{usage: seen.usage, at: seen.at, problems: seen.problems}, nil
}

func (g hostGauge) unanswered(v pool.Volume, why error) reading {
	last := g.views.unanswered(v.ID)
	return reading{
		usage: last.usage, at: last.at,
		unknown: failf(ErrGuest, "volume %s: %w", v.ID, why),
		problems: append(slices.Clone(last.problems), health.Problem{Severity: health.Inaccessible, Reason: hostSilent,
			Message: fmt.Sprintf("the volume is mounted on the host, and %v; %s", why, ageOf(last.at))}),
	}
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
