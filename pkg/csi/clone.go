package csi

import (
	"context"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"

	"github.com/katadirect/katadirect/pkg/csi/pool"
)

// parseSource returns the id of what a new volume shall hold, "" for nothing.
func parseSource(s *csi.VolumeContentSource) (id string, err error) {
	if s == nil {
		return "", nil
	}
	switch {
	case s.GetSnapshot() != nil:
		if id = s.GetSnapshot().GetSnapshotId(); pool.ValidateID(id) == nil && !pool.IsSnapshotID(id) {
			return "", failf(pool.ErrSnapshotNotFound, "there is no snapshot %s", id)
		}
	case s.GetVolume() != nil:
		if id = s.GetVolume().GetVolumeId(); pool.IsSnapshotID(id) {
			return "", failf(pool.ErrNotFound, "there is no volume %s; it is a snapshot", id)
		}
	default:
		return "", failf(ErrInvalidArgument, "the volume content source is neither a snapshot nor a volume")
	}
	if err := pool.ValidateID(id); err != nil {
		return "", failf(ErrInvalidArgument, "the volume content source: %w", err)
	}
	return id, nil
}

// contentSource is the inverse of parseSource.
func contentSource(id string) *csi.VolumeContentSource {
	switch {
	case id == "":
		return nil
	case pool.IsSnapshotID(id):
		return &csi.VolumeContentSource{Type: &csi.VolumeContentSource_Snapshot{
			Snapshot: &csi.VolumeContentSource_SnapshotSource{SnapshotId: id}}}
	}
	return &csi.VolumeContentSource{Type: &csi.VolumeContentSource_Volume{
		Volume: &csi.VolumeContentSource_VolumeSource{VolumeId: id}}}
}

// makeVolume makes an empty volume, one that the host formats, a clone of another one, which may be in use, or one from
// a snapshot. It returns what an earlier call has made.
func (c *controller) makeVolume(ctx context.Context, p parameters, spec pool.Spec) (pool.Volume, error) {
	switch {
	case spec.Source != "":
		return c.copyVolume(ctx, spec)
	case p.formatOnHost && spec.FSType != pool.RawBlock:
		return c.makeFormatted(ctx, spec, p.mkfsOptions)
	}
	return c.pool.Create(ctx, spec)
}

func (c *controller) copyVolume(ctx context.Context, spec pool.Spec) (pool.Volume, error) {
	v, found, err := c.pool.FindVolume(spec)
	if found || err != nil {
		return v, err
	}
	if c.pool.Foreign(spec.Source) {
		// The code that makes the scheduler look for another node.
		return pool.Volume{}, failf(ErrNoTopology, "the volume is to hold what %s does, which is on another node; this is %q",
			spec.Source, string(c.topology))
	}
	id := c.pool.ID(spec.Name)
	work := func(ctx context.Context, cut func()) error {
		if _, found, err := c.pool.FindVolume(spec); found || err != nil {
			return err
		}
		d, err := c.pool.BeginVolume(ctx, spec)
		if err != nil {
			return err
		}
		defer c.discard(ctx, d)
		if pool.IsSnapshotID(spec.Source) {
			err = c.restore(ctx, d)
		} else {
			err = c.capturer.capture(ctx, c.capturer.freezeLimit, []capture{{spec.Source, d}}, func(time.Time) { cut() })
		}
		if err != nil {
			return err
		}
		_, err = d.FinishVolume()
		return err
	}
	names := []string{spec.Source}
	if pool.IsSnapshotID(spec.Source) {
		names = []string{shared(spec.Source)} // many can be made of it at once
	}
	j, err := c.jobs.start(id, "volume from "+spec.Source, names, work)
	if err == nil {
		err = j.wait(ctx)
	}
	if err != nil {
		return pool.Volume{}, err
	}
	v, found, err = c.pool.FindVolume(spec)
	if err == nil && !found {
		err = failf(ErrBusy, "volume %s has gone again; repeat the call", id)
	}
	return v, err
}

// restore brings in what a snapshot holds, to which nobody writes.
func (c *controller) restore(ctx context.Context, d *pool.Draft) error {
	if c.pool.Reflinks() {
		return d.Reflink()
	}
	return d.Copy(ctx)
}
