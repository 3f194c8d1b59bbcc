package pool

import (
	"context"
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// Grow makes the volume as large as the range asks, durably, and returns it as it then is. A volume that satisfies
// the range already stays as it is; none is ever made smaller. It returns ErrNotFound, ErrOutOfRange or ErrNoSpace.
func (p *Pool) Grow(ctx context.Context, id string, size SizeRange) (Volume, error) {
	v, err := p.Get(ctx, id)
	if err != nil {
		return Volume{}, err
	}
	newBytes, err := size.chooseGrown(v.FSType, v.SizeBytes)
	if err != nil {
		return Volume{}, fmt.Errorf("grow volume %s: %w", id, err)
	}
	if newBytes == v.SizeBytes {
		return v, p.settle(id)
	}
	grown := v
	grown.SizeBytes = newBytes
	if err := p.space.change(p.promiseOf(v), p.promiseOf(grown), p.takenBytes); err != nil {
		return Volume{}, fmt.Errorf("grow volume %s: %w", id, err)
	}
	if err := p.extendImage(id, newBytes); err != nil {
		p.space.revert(p.promiseOf(v), p.promiseOf(grown))
		return Volume{}, fmt.Errorf("grow volume %s: %w", id, diskError(err))
	}
	p.put(grown)
	return grown, nil
}

// CheckGrow returns the size that Grow would give the volume now, or the error it would return.
func (p *Pool) CheckGrow(ctx context.Context, id string, size SizeRange) (int64, error) {
	v, err := p.Get(ctx, id)
	if err != nil {
		return 0, err
	}
	newBytes, err := size.chooseGrown(v.FSType, v.SizeBytes)
	if err == nil && newBytes != v.SizeBytes {
		grown := v
		grown.SizeBytes = newBytes
		err = p.space.check(p.promiseOf(v), p.promiseOf(grown), p.takenBytes)
	}
	if err != nil {
		return 0, fmt.Errorf("grow volume %s: %w", id, err)
	}
	return newBytes, nil
}

func (p *Pool) extendImage(id string, sizeBytes int64) (err error) {
	f, err := openFolder(p.root, id)
	if err != nil {
		return err
	}
	defer f.close()
	image, err := f.openImage(unix.O_RDWR)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, image.Close()) }()
	info, err := image.Stat()
	if err != nil {
		return err
	}
	// The index is ours alone, the file is not: a truncate to less would destroy data.
	if info.Size() > sizeBytes {
		return fmt.Errorf("%w: the image has %d bytes already", ErrOutOfRange, info.Size())
	}
	if err := image.Truncate(sizeBytes); err != nil {
		return err
	}
	return image.Sync()
}
