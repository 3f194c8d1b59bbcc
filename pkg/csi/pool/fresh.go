package pool

import (
	"context"
	"fmt"
	"maps"
	"path/filepath"
	"time"
)

// BeginFreshVolume begins an empty volume into whose image, at ImagePath, something is written before anybody else
// sees it: a file system. The volume is there, with it, when FinishVolume returns, and not at all before.
func (p *Pool) BeginFreshVolume(ctx context.Context, spec Spec) (*Draft, error) {
	sizeBytes, err := spec.Size.choose(spec.FSType)
	if err == nil {
		err = p.checkOwnOvercommit(spec.Overcommit)
	}
	if err != nil {
		return nil, fmt.Errorf("create volume %q: %w", spec.Name, err)
	}
	id, m := p.ID(spec.Name), meta{
		Version: metaVersion, Name: spec.Name, FSType: spec.FSType, Overcommit: spec.Overcommit,
		Parameters: maps.Clone(spec.Parameters), Created: time.Now().UTC(),
	}
	d, err := p.newDraft(ctx, id, nil, sizeBytes, p.promiseOf(p.volume(id, m, sizeBytes)))
	if err != nil {
		return nil, fmt.Errorf("create volume %q: %w", spec.Name, err)
	}
	d.volume = m
	return d, nil
}

// ImagePath is where the image of an unfinished draft is.
func (d *Draft) ImagePath() string { return filepath.Join(d.pool.dir, draftPrefix+d.id, imageName) }
