package model

import (
	"maps"
	"slices"

	"google.golang.org/grpc/codes"
)

// state is what the model says there is. Volumes are known by their number; one that does not exist is the zero volume.
type state struct {
	volumes [volumeNames]volume
}

// volume is one volume in the model.
type volume struct {
	exists    bool
	raw       bool // a raw block volume
	sizeBytes int64

	staged       bool
	stagedAt     int // number of the staging path
	stagedToRead bool

	published       bool
	target          int
	publishedToRead bool

	sandbox int // number of the living sandbox that has it, 0 for none

	// written are the marks that sandboxes have written, by their place in the volume. A state never changes the map
	// that it shares with other states.
	written map[int64]uint64
}

// answer is what a step came to.
type answer struct {
	code      codes.Code
	sizeBytes int64   // of a volume that was made, grown or described
	listed    []int64 // of a list: the size of each volume there is by its number, -1 for none
	unknown   bool    // the driver was killed before it answered
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

// fits says whether the pool must take so many bytes more, and whether it must not. In between it may do either: the
// model does not know what the driver books for maps and folders.
func (s *state) fits(moreBytes, poolBytes int64) (must, mustNot bool) {
	after := s.committedBytes() + moreBytes
	return after+after/512+volumeNames*(256<<10) <= poolBytes-poolReserve, after > poolBytes
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
	switch step.kind {
	case create:
		switch {
		case v.exists && (v.raw != step.raw || v.sizeBytes < step.sizeBytes):
			return refused(codes.AlreadyExists)
		case v.exists:
			after, allowed := done(nothing)
			return after, allowed && got.sizeBytes == v.sizeBytes
		}
		return space(step.sizeBytes, func() {
			*v = volume{exists: true, raw: step.raw, sizeBytes: step.sizeBytes}
		})
	case remove:
		if v.staged || v.published {
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
		readOnly := step.readOnly
		switch {
		case !v.exists:
			return refused(codes.NotFound)
		case v.raw != step.raw, !v.staged, v.stagedAt != step.staging:
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
			return done(func() { v.published, v.target, v.publishedToRead = false, 0, false })
		}
		return done(nothing)
	case grow:
		switch {
		case !v.exists, !v.published || v.target != step.target:
			return refused(codes.NotFound)
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
		atLeast := atMost - atMost/512 - s.committedBytes()/512 - volumeNames*(256<<10) - poolReserve
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
	sizes := make([]int64, volumeNames)
	for i, v := range s.volumes {
		sizes[i] = -1
		if v.exists {
			sizes[i] = v.sizeBytes
		}
	}
	return sizes
}

// placeOf is where in the volume a step writes its mark.
func (v volume) placeOf(s step) int64 { return s.place % (v.sizeBytes / markEvery) * markEvery }

// writable reports whether a sandbox has the volume and may write to it.
func (v volume) writable() bool { return v.sandbox != 0 && !v.publishedToRead }
