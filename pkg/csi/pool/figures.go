package pool

import "context"

// Figures are a pool and its volumes at one moment, for those who watch it.
type Figures struct {
	Space
	AvailableBytes int64 // the largest ext4 volume that could be made now
	Volumes        []VolumeFigures
	Damaged        int // volumes that cannot be used
	Snapshots      int // usable ones
}

// VolumeFigures are one usable volume, in bytes.
type VolumeFigures struct {
	ID, Name       string
	FSType         string
	SizeBytes      int64
	AllocatedBytes int64
}

// Figures asks the pool's file system, and for each volume how much its image takes. The volumes are in the order of
// their ids. It changes nothing and waits for no call.
func (p *Pool) Figures(ctx context.Context) (f Figures, err error) {
	if f.Space, err = p.Space(ctx); err != nil {
		return Figures{}, err
	}
	capacity, err := p.Capacity(ctx, Spec{FSType: "ext4"})
	if err != nil {
		return Figures{}, err
	}
	f.AvailableBytes = capacity.MaximumVolumeBytes
	for _, v := range p.List(ctx) {
		if err := ctx.Err(); err != nil {
			return Figures{}, err
		}
		f.Volumes = append(f.Volumes, VolumeFigures{ID: v.ID, Name: v.Name, FSType: v.FSType, SizeBytes: v.SizeBytes, AllocatedBytes: p.allocatedBytesOf(v.ID)})
	}
	f.Damaged = len(p.damaged())
	snapshots, _ := p.SnapshotPage(ctx, "", "", 0)
	f.Snapshots = len(snapshots)
	return f, nil
}
