package pool

import (
	"context"
	"fmt"
)

// maxOvercommit bounds what an operator can say: more is a slip of the finger.
const maxOvercommit = 100

// checkOvercommit returns the over-commitment to work with; 0 is none.
func checkOvercommit(ratio float64) (float64, error) {
	if ratio == 0 {
		return 1, nil
	}
	if !(1 <= ratio && ratio <= maxOvercommit) { // a NaN is not
		return 0, fmt.Errorf("%w: an over-commitment of %g; 1 (none) to %d are allowed", ErrInvalidSpec, ratio, maxOvercommit)
	}
	return ratio, nil
}

// checkOwnOvercommit refuses a volume that wants more over-commitment than the operator allows.
func (p *Pool) checkOwnOvercommit(ratio float64) error {
	if _, err := checkOvercommit(ratio); err != nil {
		return err
	}
	if ratio > p.space.overcommit {
		return fmt.Errorf("%w: an over-commitment of %g is asked for, and the operator of this node allows %g",
			ErrInvalidSpec, ratio, p.space.overcommit)
	}
	return nil
}

// Usage returns how many bytes of the volume's size are in use in the pool: what the guest has written at some time
// and not discarded. It says nothing about free space in the guest's file system.
func (p *Pool) Usage(ctx context.Context, id string) (usedBytes int64, err error) {
	v, err := p.Get(ctx, id)
	if err != nil {
		return 0, err
	}
	return min(p.allocatedBytesOf(id), v.SizeBytes), nil
}

// Capacity is what a pool has room for.
type Capacity struct {
	AvailableBytes     int64 // what can still be promised in volumes of that kind, 0 if not even the smallest
	MinimumVolumeBytes int64 // the smallest of that kind
	MaximumVolumeBytes int64 // the largest of that kind that can be made now
}

// Capacity returns what the pool has room for in volumes with that file system and over-commitment. Nothing else of
// the Spec counts.
func (p *Pool) Capacity(_ context.Context, spec Spec) (Capacity, error) {
	fs, known := fileSystems[spec.FSType]
	if !known {
		return Capacity{}, unknownFileSystem(spec.FSType)
	}
	if err := p.checkOwnOvercommit(spec.Overcommit); err != nil {
		return Capacity{}, err
	}
	disk, err := p.space.disk()
	if err != nil {
		return Capacity{}, err
	}
	usableBytes := disk.leftBytes + p.takenBytes()
	promisable := p.space.promisable(usableBytes, p.overcommitOf(spec.Overcommit))
	available, largest := largestSize(promisable), largestSize(min(promisable, usableBytes))
	if largest < fs.minBytes || p.space.nearlyFull(disk) {
		available, largest = 0, 0
	}
	return Capacity{
		AvailableBytes:     available,
		MinimumVolumeBytes: fs.minBytes,
		MaximumVolumeBytes: min(largest, fs.maxBytes),
	}, nil
}

// Check reports whether the pool's file system answers.
func (p *Pool) Check(context.Context) error {
	_, err := p.space.disk()
	return err
}
