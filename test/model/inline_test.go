package model

import "google.golang.org/grpc/codes"

func isInline(volume int) bool { return volume >= volumeNames }

// applyInline is apply for the publication of a volume that is made by it, and goes when it ends.
func (s state) applyInline(step step, got answer, poolBytes int64) (after state, allowed bool) {
	v := &s.volumes[step.volume]
	refused := func(code codes.Code) (state, bool) { return s, got.code == code }
	if v.exists && (v.madeFor != step.target || v.sizeBytes < step.sizeBytes) {
		return refused(codes.AlreadyExists)
	}
	if !v.exists {
		must, mustNot := s.fits(step.sizeBytes, poolBytes)
		switch {
		case got.code == codes.ResourceExhausted:
			return s, !must
		case mustNot:
			return s, false
		}
	}
	if _, taken := s.at(step.target); taken && !v.published {
		return refused(codes.FailedPrecondition) // and what was made for it is taken back, unless it was there
	}
	if got.code != codes.OK {
		return s, false
	}
	if !v.exists {
		*v = volume{exists: true, sizeBytes: step.sizeBytes, madeFor: step.target}
	}
	v.published, v.target = true, step.target
	return s, true
}

// halfDone are the states in which a kill may leave the making and the end of an inline volume: it is there, and not published.
func (s state) halfDone(step step, poolBytes int64) []state {
	v := &s.volumes[step.volume]
	switch {
	case step.kind == inline && !v.exists:
		if _, mustNot := s.fits(step.sizeBytes, poolBytes); mustNot {
			return nil
		}
		*v = volume{exists: true, sizeBytes: step.sizeBytes, madeFor: step.target}
	case step.kind == unpublish && isInline(step.volume) && v.published && v.target == step.target && v.sandbox == 0:
		v.published, v.target = false, 0
	default:
		return nil
	}
	return []state{s}
}
