package model

import (
	"slices"

	"google.golang.org/grpc/codes"
)

// membersOf are the sizes of a group's snapshots by their volume, -1 for volumes that are not in it.
func (s *state) membersOf(group int) []int64 {
	first := memberOf(group, 0)
	return s.snapshotSizes()[first : first+volumeNames]
}

// applyGroup is apply for snapshots of several volumes at one moment: all are taken, or none is.
func (s state) applyGroup(step step, got answer, poolBytes int64) (after state, allowed bool) {
	sources := step.sources()
	if s.groups[step.group] {
		for i := range volumeNames {
			if s.snapshots[memberOf(step.group, i)].exists != slices.Contains(sources, i) {
				return s, got.code == codes.AlreadyExists
			}
		}
		return s, got.code == codes.OK && slices.Equal(got.listed, s.membersOf(step.group))
	}
	var sum int64
	missing, restless := false, false
	for _, i := range sources {
		v := s.volumes[i]
		missing = missing || !v.exists
		restless = restless || v.restless() && !s.reflinks
		sum += v.sizeBytes
	}
	switch must, _ := s.fits(sum, poolBytes); {
	case got.code == codes.ResourceExhausted:
		return s, !must
	case missing:
		return s, got.code == codes.NotFound
	case restless:
		return s, got.code == codes.FailedPrecondition
	case got.code != codes.OK:
		return s, false
	}
	s.groups[step.group] = true
	for _, i := range sources {
		v := s.volumes[i]
		s.snapshots[memberOf(step.group, i)] = snapshot{exists: true, source: i, raw: v.raw, sizeBytes: v.sizeBytes, written: v.written}
	}
	return s, got.unknown || slices.Equal(got.listed, s.membersOf(step.group))
}
