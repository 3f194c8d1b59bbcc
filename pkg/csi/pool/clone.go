package pool

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"time"
)

// FindVolume returns the volume that an earlier call with a compatible spec has made, as Create does.
func (p *Pool) FindVolume(spec Spec) (_ Volume, found bool, err error) {
	if err := checkName(spec.Name); err != nil {
		return Volume{}, false, err
	}
	id := p.ID(spec.Name)
	e, found := p.entry(id)
	if !found {
		return Volume{}, false, nil
	}
	v, err := existing(e, spec)
	if err == nil {
		err = p.settle(id)
	}
	return v, true, err
}

// BeginVolume begins a volume that holds what spec.Source does, a volume or a snapshot of this pool. It is as large
// as its source unless more is asked for. It returns ErrNotFound, ErrSnapshotNotFound or ErrNotReady for the source,
// ErrInvalidSpec when the source has another file system, and ErrOutOfRange when it is larger than what is asked for.
func (p *Pool) BeginVolume(ctx context.Context, spec Spec) (*Draft, error) {
	from, err := p.source(ctx, spec.Source)
	if err != nil {
		return nil, err
	}
	if from.fsType != spec.FSType {
		return nil, fmt.Errorf("%w: the source %s has %s, not %s; a copy keeps the file system",
			ErrInvalidSpec, spec.Source, from.fsType, spec.FSType)
	}
	image, err := p.openImage(spec.Source)
	if err != nil {
		return nil, err
	}
	d, err := p.beginVolume(ctx, spec, image)
	if err != nil {
		return nil, fmt.Errorf("volume %q from %s: %w", spec.Name, spec.Source, err)
	}
	return d, nil
}

func (p *Pool) beginVolume(ctx context.Context, spec Spec, source *os.File) (*Draft, error) {
	info, err := source.Stat()
	if err != nil {
		return nil, errors.Join(err, source.Close())
	}
	sizeBytes, err := spec.Size.chooseCopied(spec.FSType, info.Size())
	if err != nil {
		return nil, errors.Join(err, source.Close())
	}
	if err := p.checkOwnOvercommit(spec.Overcommit); err != nil {
		return nil, errors.Join(err, source.Close())
	}
	id, m := p.ID(spec.Name), meta{
		Version: metaVersion, Name: spec.Name, FSType: spec.FSType, Source: spec.Source, Overcommit: spec.Overcommit,
		Parameters: maps.Clone(spec.Parameters), Created: time.Now().UTC(),
	}
	d, err := p.newDraft(ctx, id, source, sizeBytes, p.promiseOf(p.volume(id, m, sizeBytes)))
	if err != nil {
		return nil, err
	}
	d.volume = m
	return d, nil
}

// FinishVolume makes the volume durable and known.
func (d *Draft) FinishVolume() (Volume, error) {
	if err := d.publish(metaName, d.volume); err != nil {
		return Volume{}, fmt.Errorf("volume %s: %w", d.id, diskError(err))
	}
	v := d.pool.volume(d.id, d.volume, d.sizeBytes)
	d.pool.put(v)
	d.ended()
	return v, nil
}

// chooseCopied returns the size of a volume that holds what one of sizeBytes does.
func (r SizeRange) chooseCopied(fsType string, sizeBytes int64) (int64, error) {
	if r.RequiredBytes > 0 && r.RequiredBytes < sizeBytes || r.LimitBytes > 0 && r.LimitBytes < sizeBytes {
		return 0, fmt.Errorf("%w: the source has %d bytes, and a copy is never smaller; at least %d and at most %d are asked for",
			ErrOutOfRange, sizeBytes, r.RequiredBytes, r.LimitBytes)
	}
	return r.chooseGrown(fsType, sizeBytes)
}

// source is what a volume can be made from.
type source struct{ fsType string }

func (p *Pool) source(ctx context.Context, id string) (source, error) {
	if !IsSnapshotID(id) {
		v, err := p.Get(ctx, id)
		return source{v.FSType}, err
	}
	s, err := p.GetSnapshot(ctx, id)
	if err == nil && !s.Ready {
		err = fmt.Errorf("%w: %s; try again when it is ready", ErrNotReady, id)
	}
	return source{s.FSType}, err
}
