package model

import (
	"slices"
	"testing"

	"google.golang.org/grpc/codes"
)

// outcome is a step and its answer.
type outcome struct {
	step   step
	answer answer
}

// orders returns every state in which steps that ran at once may have left the model, one for each order in which their
// answers fit; none if there is no such order. ABORTED fits if another step needed the same lock. A step whose answer
// nobody got may have been carried out at any time, or not at all.
func orders(before state, outcomes []outcome, poolBytes int64) []state {
	var found []state
	var place func(s state, left []outcome)
	place = func(s state, left []outcome) {
		if len(left) == 0 {
			if !slices.ContainsFunc(found, func(f state) bool { return same(f, s) }) {
				found = append(found, s)
			}
			return
		}
		for i, o := range left {
			rest := slices.Delete(slices.Clone(left), i, i+1)
			switch {
			case o.answer.unknown:
				place(s, rest) // never carried out
				if after, possible := carriedOut(s, o.step, poolBytes); possible {
					place(after, rest)
				}
				for _, after := range s.halfDone(o.step, poolBytes) {
					place(after, rest)
				}
			case o.answer.code == codes.Aborted:
				if contended(o.step, outcomes) {
					place(s, rest)
				}
			case (o.answer.code == codes.ResourceExhausted || o.step.kind == capacity && o.answer.code == codes.OK) &&
				crowded(o.step, outcomes):
				place(s, rest)
			case halfSeen(o.step, outcomes):
				place(s, rest)
			case (o.answer.code == codes.Unavailable || o.answer.code == codes.Canceled) && givenUp(o.step, outcomes):
				place(s, rest)
			default:
				if after, allowed := s.apply(o.step, o.answer, poolBytes); allowed {
					place(after, rest)
				}
			}
		}
	}
	place(before, outcomes)
	return found
}

// carriedOut is the state after a step that was carried out and not answered.
func carriedOut(s state, step step, poolBytes int64) (state, bool) {
	switch step.kind {
	case list, listSnaps, capacity, getGroup:
		return s, false // it would have changed nothing
	}
	got := answer{code: codes.OK, sizeBytes: step.sizeBytes, unknown: true}
	if step.kind == snap {
		got.sizeBytes = s.volumes[step.volume].sizeBytes
	}
	if v := s.volumes[step.volume]; step.kind == grow && v.sandbox != 0 && v.publishedToRead {
		got.code = codes.FailedPrecondition // after the image has grown
	}
	return s.apply(step, got, poolBytes)
}

// contended reports whether another step needs one of the step's locks.
func contended(of step, outcomes []outcome) bool {
	others := 0
	for _, o := range outcomes {
		for _, lock := range of.locks() {
			if slices.Contains(o.step.locks(), lock) {
				others++
				break
			}
		}
	}
	return others > 1 // itself is one
}

// crowded reports whether another step may have had the room that a step did not find, only for a while: a copy needs
// more until it is made, and what fails in the end gives its room back.
func crowded(of step, outcomes []outcome) bool {
	others := 0
	for _, o := range outcomes {
		switch o.step.kind {
		case create, clone, restore, snap, grow, snapGroup, inline:
			if o.step != of {
				others++
			}
		}
	}
	return others > 0
}

// halfSeen reports whether a step may see what another one has only half done: a group that is just made or deleted, member
// by member, or an inline volume that is made and then cannot be published.
func halfSeen(of step, outcomes []outcome) bool {
	return slices.ContainsFunc(outcomes, func(o outcome) bool {
		switch of.kind {
		case list:
			return o.step.kind == inline
		case listSnaps:
			return o.step.kind == snapGroup || o.step.kind == dropGroup
		case getGroup:
			return (o.step.kind == snapGroup || o.step.kind == dropGroup) && o.step.group == of.group
		}
		return false
	})
}

// givenUp reports whether another step deletes what this one may have been copying.
func givenUp(of step, outcomes []outcome) bool {
	for _, o := range outcomes {
		switch {
		case of.kind == snap && o.step.kind == dropSnap && o.step.snapshot == of.snapshot,
			of.kind == snapGroup && o.step.kind == dropGroup && o.step.group == of.group,
			(of.kind == clone || of.kind == restore) && o.step.kind == remove && o.step.volume == of.volume:
			return true
		}
	}
	return false
}

// same reports whether two states that came from one are alike. Marks are not compared: they are written one by one.
func same(a, b state) bool {
	for i := range a.volumes {
		x, y := a.volumes[i], b.volumes[i]
		sameMarks := len(x.written) == len(y.written)
		if !sameMarks || !sameVolume(x, y) {
			return false
		}
	}
	for i := range a.snapshots {
		x, y := a.snapshots[i], b.snapshots[i]
		if x.exists != y.exists || x.source != y.source || x.sizeBytes != y.sizeBytes || len(x.written) != len(y.written) {
			return false
		}
	}
	return a.groups == b.groups
}

func sameVolume(a, b volume) bool {
	return a.exists == b.exists && a.raw == b.raw && a.sizeBytes == b.sizeBytes && a.source == b.source &&
		a.madeFor == b.madeFor && a.attached == b.attached && a.attachedToRead == b.attachedToRead &&
		a.staged == b.staged && a.stagedAt == b.stagedAt && a.stagedToRead == b.stagedToRead &&
		a.published == b.published && a.target == b.target && a.publishedToRead == b.publishedToRead && a.sandbox == b.sandbox &&
		a.limits == b.limits
}

// A kill may leave an inline volume that was made for a target and not published there, and the target goes to another.
func TestWhatWasMadeForATargetEndsAfterWhatHasIt(t *testing.T) {
	var s state
	made, published := volumeNames, volumeNames+1
	s.volumes[made] = volume{exists: true, madeFor: 2}
	s.volumes[published] = volume{exists: true, madeFor: 2, published: true, target: 2}
	var order []int
	for _, last := range s.ends() {
		order = append(order, last.volume)
	}
	if want := []int{published, made}; !slices.Equal(order, want) {
		t.Errorf("the volumes end in the order %v, want %v", order, want)
	}
}
