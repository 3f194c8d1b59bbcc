package model

import (
	"maps"
	"slices"

	"google.golang.org/grpc/codes"
)

// state is what the model says there is. Volumes are known by their number; one that does not exist is the zero volume.
type state struct {
	volumes   [allVolumes]volume
	snapshots [allSnapshots]snapshot
	groups    [groupNames]bool // that exist
	// reflinks says that the pool's file system copies in an instant.
	reflinks bool
}

// snapshot is one snapshot in the model.
type snapshot struct {
	exists    bool
	source    int // number of the volume it is of, which may be gone or another one by now
	raw       bool
	sizeBytes int64
	written   map[int64]uint64 // by the time it was taken
}

// What a volume can be made from.
const (
	fromNothing  = 0
	fromVolume   = 1              // and the volume's number
	fromSnapshot = 1 + allVolumes // and the snapshot's number
)

// volume is one volume in the model.
type volume struct {
	exists    bool
	raw       bool // a raw block volume
	sizeBytes int64
	source    int // fromNothing, fromVolume or fromSnapshot

	attached       bool
	attachedToRead bool

	staged       bool
	stagedAt     int // number of the staging path
	stagedToRead bool

	published       bool
	target          int
	publishedToRead bool

	// madeFor is the target that an inline volume was made for. It is there, and nowhere published, after a kill only.
	madeFor int

	sandbox int // number of the living sandbox that has it, 0 for none

	limits limits

	// written are the marks that sandboxes have written, by their place in the volume. A state never changes the map
	// that it shares with other states.
	written map[int64]uint64
}

// answer is what a step came to.
type answer struct {
	code      codes.Code
	sizeBytes int64   // of a volume that was made, grown or described
	listed    []int64 // of a list: the size of each volume or snapshot there is by its number, -1 for none
	unknown   bool    // the driver was killed before it answered
	text      string  // of an error, for people
}

// at returns the volume that is published at a target, and whether there is one.
func (s *state) at(target int) (int, bool) {
	for i, v := range s.volumes {
		if v.published && v.target == target {
			return i, true
		}
	}
	return 0, false
}

// committedBytes is the sum of the sizes of all volumes.
func (s *state) committedBytes() int64 {
	var sum int64
	for _, v := range s.volumes {
		sum += v.sizeBytes
	}
	return sum
}

// snapshotBytes is more than any snapshot here takes: some marks.
const snapshotBytes = mib

// takenBySnapshots is the most that snapshots may take.
func (s *state) takenBySnapshots() int64 {
	var sum int64
	for _, one := range s.snapshots {
		if one.exists {
			sum += snapshotBytes
		}
	}
	return sum
}

// fits says whether the pool must take so many bytes more, and whether it must not. In between it may do either: the
// model does not know what the driver books for maps and folders.
func (s *state) fits(moreBytes, poolBytes int64) (must, mustNot bool) {
	after := s.committedBytes() + moreBytes
	most := after + after/512 + allVolumes*(256<<10) + s.takenBySnapshots()
	return most <= poolBytes-poolReserve, after > poolBytes
}

// apply returns the state after a step that was answered so, and whether the model allows that answer.
func (s state) apply(step step, got answer, poolBytes int64) (after state, allowed bool) {
	v := &s.volumes[step.volume]
	refused := func(code codes.Code) (state, bool) { return s, got.code == code }
	done := func(change func()) (state, bool) {
		if got.code != codes.OK {
			return s, false
		}
		change()
		return s, true
	}
	nothing := func() {}
	// space is for steps that may find the pool full.
	space := func(moreBytes int64, change func()) (state, bool) {
		must, mustNot := s.fits(moreBytes, poolBytes)
		switch {
		case got.code == codes.ResourceExhausted:
			return s, !must
		case mustNot:
			return s, false
		}
		return done(change)
	}
	// again is for a create of what exists.
	again := func(source int) (state, bool) {
		if v.raw != step.raw || v.sizeBytes < step.sizeBytes || v.source != source {
			return refused(codes.AlreadyExists)
		}
		after, allowed := done(nothing)
		return after, allowed && got.sizeBytes == v.sizeBytes
	}
	// from is for a create of a volume that holds something.
	from := func(source int, exists, raw bool, sizeBytes int64, written map[int64]uint64) (state, bool) {
		switch {
		case v.exists:
			return again(source)
		case !exists:
			return refused(codes.NotFound)
		case raw != step.raw:
			return refused(codes.InvalidArgument)
		case step.sizeBytes < sizeBytes:
			return refused(codes.OutOfRange)
		}
		return space(step.sizeBytes, func() {
			*v = volume{exists: true, raw: raw, sizeBytes: step.sizeBytes, source: source, written: written}
		})
	}
	switch step.kind {
	case clone:
		o := s.volumes[step.other]
		if must, _ := s.fits(step.sizeBytes, poolBytes); !v.exists && o.restless() && !s.reflinks && o.raw == step.raw && step.sizeBytes >= o.sizeBytes {
			return s, got.code == codes.FailedPrecondition || got.code == codes.ResourceExhausted && !must
		}
		return from(fromVolume+step.other, o.exists, o.raw, o.sizeBytes, o.written)
	case restore:
		o := s.snapshots[step.snapshot]
		return from(fromSnapshot+step.snapshot, o.exists, o.raw, o.sizeBytes, o.written)
	case snap:
		one := &s.snapshots[step.snapshot]
		switch {
		case one.exists && one.source != step.volume:
			return refused(codes.AlreadyExists)
		case one.exists:
			after, allowed := done(nothing)
			return after, allowed && got.sizeBytes == one.sizeBytes
		case !v.exists:
			return refused(codes.NotFound)
		}
		// While it is copied it may need as much room as the volume, and then only what is in it.
		if must, _ := s.fits(v.sizeBytes, poolBytes); got.code == codes.ResourceExhausted {
			return s, !must
		}
		if v.restless() && !s.reflinks {
			return refused(codes.FailedPrecondition)
		}
		after, allowed := done(func() {
			*one = snapshot{exists: true, source: step.volume, raw: v.raw, sizeBytes: v.sizeBytes, written: v.written}
		})
		return after, allowed && (got.code != codes.OK || got.sizeBytes == v.sizeBytes)
	case dropSnap:
		if step.snapshot >= snapshotNames && s.snapshots[step.snapshot].exists {
			return refused(codes.FailedPrecondition) // it goes with its group
		}
		return done(func() { s.snapshots[step.snapshot] = snapshot{} })
	case snapGroup:
		return s.applyGroup(step, got, poolBytes)
	case dropGroup:
		return done(func() {
			s.groups[step.group] = false
			for i := range volumeNames {
				s.snapshots[memberOf(step.group, i)] = snapshot{}
			}
		})
	case getGroup:
		if !s.groups[step.group] {
			return refused(codes.NotFound)
		}
		after, allowed := done(nothing)
		return after, allowed && slices.Equal(got.listed, s.membersOf(step.group))
	case inline:
		return s.applyInline(step, got, poolBytes)
	case listSnaps:
		after, allowed := done(nothing)
		return after, allowed && slices.Equal(got.listed, s.snapshotSizes())
	case attach:
		switch {
		case !v.exists:
			return refused(codes.NotFound)
		case v.attached && v.attachedToRead != step.readOnly:
			return refused(codes.AlreadyExists)
		}
		return done(func() { v.attached, v.attachedToRead = true, step.readOnly })
	case detach:
		if v.attached && (v.staged || v.published) {
			return refused(codes.FailedPrecondition)
		}
		return done(func() { v.attached, v.attachedToRead = false, false })
	case modify:
		if !v.exists {
			return refused(codes.NotFound)
		}
		return done(func() { v.limits = v.limits.after(step) })
	case create:
		switch {
		case v.exists:
			return again(fromNothing)
		}
		return space(step.sizeBytes, func() {
			*v = volume{exists: true, raw: step.raw, sizeBytes: step.sizeBytes}
		})
	case remove:
		if v.attached || v.staged || v.published {
			return refused(codes.FailedPrecondition)
		}
		return done(func() { *v = volume{} })
	case stage:
		switch {
		case !v.exists:
			return refused(codes.NotFound)
		case v.raw != step.raw, v.staged && v.stagedAt != step.staging:
			return refused(codes.FailedPrecondition)
		case v.staged && v.stagedToRead != step.readOnly:
			return refused(codes.AlreadyExists)
		}
		return done(func() { v.staged, v.stagedAt, v.stagedToRead = true, step.staging, step.readOnly })
	case unstage:
		if v.staged && v.stagedAt == step.staging {
			if v.published {
				return refused(codes.FailedPrecondition)
			}
			return done(func() { v.staged, v.stagedAt, v.stagedToRead = false, 0, false })
		}
		return done(nothing)
	case publish:
		other, taken := s.at(step.target)
		readOnly := step.readOnly || v.attached && v.attachedToRead
		switch {
		case !v.exists:
			return refused(codes.NotFound)
		case v.raw != step.raw, !v.staged, v.stagedAt != step.staging, v.stagedToRead && !readOnly:
			return refused(codes.FailedPrecondition)
		case v.published && v.target != step.target, taken && other != step.volume:
			return refused(codes.FailedPrecondition)
		case v.published && v.publishedToRead != readOnly:
			return refused(codes.AlreadyExists)
		}
		return done(func() { v.published, v.target, v.publishedToRead = true, step.target, readOnly })
	case unpublish:
		other, taken := s.at(step.target)
		switch {
		case taken && (other != step.volume || v.sandbox != 0):
			return refused(codes.FailedPrecondition)
		case taken:
			return done(func() {
				if v.published, v.target, v.publishedToRead = false, 0, false; isInline(step.volume) {
					*v = volume{} // with its data
				}
			})
		case isInline(step.volume) && v.exists && v.madeFor == step.target:
			return done(func() { *v = volume{} })
		}
		return done(nothing)
	case grow:
		switch {
		case !v.exists, !v.published || v.target != step.target:
			return refused(codes.NotFound)
		case v.sandbox != 0 && v.publishedToRead: // the image grows; in a machine that may only read it nothing else can
			must, mustNot := s.fits(step.sizeBytes-v.sizeBytes, poolBytes)
			if got.code == codes.ResourceExhausted && step.sizeBytes > v.sizeBytes {
				return s, !must
			}
			after, allowed := refused(codes.FailedPrecondition)
			after.volumes[step.volume].sizeBytes = max(v.sizeBytes, step.sizeBytes)
			return after, allowed && (!mustNot || step.sizeBytes <= v.sizeBytes)
		case step.sizeBytes <= v.sizeBytes:
			after, allowed := done(nothing)
			return after, allowed && got.sizeBytes == v.sizeBytes
		}
		after, allowed := space(step.sizeBytes-v.sizeBytes, func() { v.sizeBytes = step.sizeBytes })
		return after, allowed && (got.code != codes.OK || got.sizeBytes == step.sizeBytes)
	case askGrow:
		if !v.exists {
			return refused(codes.NotFound)
		}
		more := max(0, step.sizeBytes-v.sizeBytes)
		if more == 0 {
			return done(nothing)
		}
		return space(more, nothing)
	case stats:
		if !v.exists || !v.published || v.target != step.target {
			return refused(codes.NotFound)
		}
		return done(nothing)
	case describe, validate, health:
		if !v.exists {
			return refused(codes.NotFound)
		}
		after, allowed := done(nothing)
		return after, allowed && (step.kind != describe || got.sizeBytes == v.sizeBytes)
	case list:
		after, allowed := done(nothing)
		return after, allowed && slices.Equal(got.listed, s.sizes())
	case capacity:
		after, allowed := done(nothing)
		atMost := max(0, poolBytes-s.committedBytes())
		atLeast := atMost - atMost/512 - s.committedBytes()/512 - allVolumes*(256<<10) - s.takenBySnapshots() - poolReserve
		if atLeast < smallest {
			atLeast = 0
		}
		return after, allowed && atLeast <= got.sizeBytes && got.sizeBytes <= atMost
	case claim:
		at, taken := s.at(step.target)
		if !taken {
			return refused(codes.NotFound)
		}
		v = &s.volumes[at]
		if v.sandbox != 0 && v.sandbox != step.sandbox {
			return refused(codes.FailedPrecondition)
		}
		return done(func() { v.sandbox = step.sandbox })
	case release:
		return done(func() {
			if at, taken := s.at(step.target); taken && s.volumes[at].sandbox == step.sandbox {
				s.volumes[at].sandbox = 0
			}
		})
	case die:
		return done(func() {
			for i := range s.volumes {
				if s.volumes[i].sandbox == step.sandbox {
					s.volumes[i].sandbox = 0
				}
			}
		})
	case write:
		if !v.writable() {
			return done(nothing)
		}
		return done(func() {
			v.written = maps.Clone(v.written)
			if v.written == nil {
				v.written = map[int64]uint64{}
			}
			v.written[v.placeOf(step)] = step.mark
		})
	}
	return s, false
}

// sizes are those of all volumes by their number, -1 for one that does not exist.
func (s *state) sizes() []int64 {
	sizes := make([]int64, allVolumes)
	for i, v := range s.volumes {
		sizes[i] = -1
		if v.exists {
			sizes[i] = v.sizeBytes
		}
	}
	return sizes
}

func (s *state) snapshotSizes() []int64 {
	sizes := make([]int64, allSnapshots)
	for i, one := range s.snapshots {
		sizes[i] = -1
		if one.exists {
			sizes[i] = one.sizeBytes
		}
	}
	return sizes
}

// restless is a raw device in use on the host: nobody can hold it still while it is copied, except in an instant.
func (v volume) restless() bool { return v.raw && v.staged && v.sandbox == 0 }

// placeOf is where in the volume a step writes its mark.
func (v volume) placeOf(s step) int64 { return s.place % (v.sizeBytes / markEvery) * markEvery }

// writable reports whether a sandbox has the volume and may write to it.
func (v volume) writable() bool { return v.sandbox != 0 && !v.publishedToRead }
