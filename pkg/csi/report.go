package csi

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"
	"unicode"

	"github.com/container-storage-interface/spec/lib/go/csi"

	"github.com/katadirect/katadirect/internal/version"
	"github.com/katadirect/katadirect/pkg/csi/facts"
	"github.com/katadirect/katadirect/pkg/csi/health"
	"github.com/katadirect/katadirect/pkg/csi/pool"
	"github.com/katadirect/katadirect/pkg/csi/trouble"
	"github.com/katadirect/katadirect/pkg/directvolume"
)

const (
	// reportPage is how many volumes a report has.
	reportPage = 250
	// machinePatience bounds the question to a shim where its volumes are in the guest.
	machinePatience = 2 * time.Second
	// maxGuestWord bounds what is repeated of what a guest says.
	maxGuestWord = 256
)

// reporter says how the volumes are to people's tools. Unlike metrics it asks guests, in a bounded time.
type reporter struct {
	node     string
	checkup  *checkup
	troubles *trouble.Log
	looking  sync.Map // by volume id: since when somebody looks at it
}

// Report says how the volumes are whose ids come after the one given, a page of them.
func (d *Driver) Report(ctx context.Context, after string) (facts.Node, error) {
	return d.reporter.report(ctx, after)
}

func (r *reporter) report(ctx context.Context, after string) (facts.Node, error) {
	ctx, cancel := context.WithTimeout(ctx, 2*listPatience)
	defer cancel()
	page, more := r.checkup.pool.Page(ctx, after, reportPage)
	publications, err := r.checkup.records.index(ctx)
	if err != nil {
		return facts.Node{}, err
	}
	n := facts.Node{Node: r.node, Version: version.Version, Time: time.Now(), Volumes: make([]facts.Volume, len(page))}
	machines := machines{guests: r.checkup.guests}
	slots := make(chan struct{}, listAtOnce)
	var looks sync.WaitGroup
	for i, v := range page {
		looks.Go(func() {
			slots <- struct{}{}
			defer func() { <-slots }()
			n.Volumes[i] = r.volume(ctx, v, publications, &machines)
		})
	}
	n.Pool = r.pool(ctx)
	looks.Wait()
	if more {
		n.Next = page[len(page)-1].ID
	}
	return n, nil
}

// pool is the room there is. When its disk does not answer, that is all there is to say.
func (r *reporter) pool(ctx context.Context) facts.Pool {
	p := facts.Pool{Path: r.checkup.pool.Dir(), Problems: problemFacts(r.checkup.storage(ctx))}
	figures, answered, err := within(ctx, &r.looking, "", func() (pool.Figures, error) { return r.checkup.pool.Figures(ctx) })
	if answered && err == nil {
		p.SizeBytes, p.FreeBytes = figures.TotalBytes, figures.FreeBytes
		p.PromisedBytes, p.AvailableBytes = figures.PromisedBytes, figures.AvailableBytes
	}
	return p
}

// volume looks at one volume, in a bounded time.
func (r *reporter) volume(ctx context.Context, v pool.Volume, publications publicationsOf, m *machines) facts.Volume {
	f, answered, err := within(ctx, &r.looking, v.ID, func() (facts.Volume, error) { return r.look(ctx, v, publications, m) })
	switch {
	case !answered:
		f = facts.Volume{ID: v.ID, Name: v.Name, SizeBytes: v.SizeBytes, Problems: problemFacts(r.checkup.silent())}
	case err != nil && !errors.Is(err, pool.ErrNotFound):
		f.Problems = append(f.Problems, problemFacts([]health.Problem{{Severity: health.Degraded, Reason: health.GuestUnable,
			Message: fmt.Sprintf("the volume's state cannot be found out: %v", err)}})...)
	}
	f.Troubles = r.troubles.Of(v.ID)
	return f
}

func (r *reporter) look(ctx context.Context, v pool.Volume, publications publicationsOf, m *machines) (facts.Volume, error) {
	c := r.checkup
	f := facts.Volume{ID: v.ID, Name: v.Name, SizeBytes: v.SizeBytes, Block: isRaw(v)}
	if !f.Block {
		f.FileSystem = v.FSType
	}
	problems, err := c.pool.VolumeHealth(ctx, v.ID)
	f.Problems = problemFacts(problems)
	if err != nil || v.Name == "" {
		return f, err // gone, or damaged, which the problems say
	}
	f.AllocatedBytes, _ = c.pool.Usage(ctx, v.ID)
	if limits, err := c.pool.Limits(ctx, v.ID); err == nil && !limits.None() {
		f.Limits = limits.String()
	}
	snapshots, _ := c.pool.SnapshotPage(ctx, v.ID, "", 0)
	f.Snapshots = len(snapshots)
	found, err := publications(ctx, v)
	if err != nil {
		return f, err
	}
	read, err := c.gaugeWith(v, publications).read(ctx, v)
	if err != nil {
		return f, err
	}
	f.Problems = append(f.Problems, problemFacts(read.problems)...)
	f.Problems = append(f.Problems, problemFacts(limiter{pool: c.pool, staged: c.staged}.unheld(ctx, v.ID))...)
	r.holder(ctx, &f, v, found, m)
	f.Usage = r.usage(f, read)
	return f, nil
}

// holder fills in who has the volume.
func (r *reporter) holder(ctx context.Context, f *facts.Volume, v pool.Volume, found []publication, m *machines) {
	if present, err := r.checkup.staged.Get(ctx, v.ID); err == nil {
		f.ReadOnly = present.ReadOnly
		if present.OnHost {
			f.HeldBy = facts.HeldByHost
		}
	}
	for _, p := range found {
		f.Pod = p.record.Metadata[directvolume.MetadataPod]
		f.ReadOnly = f.ReadOnly || p.record.ReadOnly()
		f.DeadSandboxes = append(f.DeadSandboxes, p.dead...)
		if len(p.sandboxes) > 0 {
			f.HeldBy = facts.HeldByMachine
			f.Machine = m.volume(ctx, p.sandboxes[0], p.record.Device, r.checkup.views.Last(v.ID).SilentSince)
			return
		}
	}
}

// usage is how full the file system is, if somebody who has mounted it ever said so.
func (r *reporter) usage(f facts.Volume, read reading) *facts.Usage {
	last := r.checkup.views.Last(f.ID)
	u := facts.Usage{At: last.At}
	switch {
	case f.Block || read.usage == nil:
		return nil
	case f.HeldBy == facts.HeldByHost:
		u.At = read.at
	case !last.Known():
		return nil
	}
	for _, one := range read.usage {
		switch one.GetUnit() {
		case csi.VolumeUsage_BYTES:
			u.TotalBytes, u.UsedBytes, u.AvailableBytes = one.GetTotal(), one.GetUsed(), one.GetAvailable()
		case csi.VolumeUsage_INODES:
			u.Inodes, u.InodesUsed = one.GetTotal(), one.GetUsed()
		}
	}
	return &u
}

// machines asks each machine once in a report which volumes it has, and where.
type machines struct {
	guests guests
	asked  sync.Map // by sandbox: a func that returns its volumes
}

// volume says where a device is in the machine. A guest that is silent is not asked: another question waits for it already.
func (m *machines) volume(ctx context.Context, sandbox, device string, silentSince time.Time) *facts.Machine {
	machine := &facts.Machine{Sandbox: sandbox}
	if !silentSince.IsZero() {
		machine.Unknown = "the guest does not answer"
		return machine
	}
	ask, _ := m.asked.LoadOrStore(sandbox, sync.OnceValues(func() ([]directvolume.SandboxVolume, error) {
		ctx, cancel := context.WithTimeout(ctx, machinePatience)
		defer cancel()
		return m.guests.client(sandbox).Volumes(ctx)
	}))
	all, err := ask.(func() ([]directvolume.SandboxVolume, error))()
	if err != nil {
		machine.Unknown = err.Error()
		return machine
	}
	for _, v := range all {
		if v.Device == device {
			machine.GuestDevice, machine.GuestPath, machine.Unknown = guestWord(v.GuestDevice), guestWord(v.GuestPath), guestWord(v.Problem)
			if v.Frozen != nil {
				machine.FrozenSince = &v.Frozen.Since
			}
			return machine
		}
	}
	machine.Unknown = "the machine does not have the device yet"
	return machine
}

// guestWord is a word of a guest's, made harmless.
func guestWord(s string) string {
	s = strings.ToValidUTF8(s[:min(len(s), maxGuestWord)], "")
	return strings.Map(func(c rune) rune {
		if !unicode.IsPrint(c) {
			return -1
		}
		return c
	}, s)
}

var severities = map[health.Severity]string{
	health.Degraded: "degraded", health.Inaccessible: "inaccessible", health.DataLoss: "data-loss",
}

func problemFacts(problems []health.Problem) []facts.Problem {
	var all []facts.Problem
	for _, p := range problems {
		all = append(all, facts.Problem{Severity: severities[p.Severity], Reason: p.Reason, Message: p.Message})
	}
	return all
}
