package csi

import (
	"testing"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc/codes"
)

func TestOvercommitOfAClassIsCheckedAgainstTheOperators(t *testing.T) {
	h := newHost(t) // 1, the default
	for value, want := range map[string]struct {
		code codes.Code
		word string
	}{
		"1": {codes.OK, ""}, "1.0": {codes.OK, ""},
		"2": {codes.InvalidArgument, "the operator of this node allows 1"}, "0.5": {codes.InvalidArgument, `"0.5"`},
		"": {codes.InvalidArgument, "a number"}, "two": {codes.InvalidArgument, `"two"`}, "NaN": {codes.InvalidArgument, "NaN"},
		"Inf": {codes.InvalidArgument, "Inf"}, "-1": {codes.InvalidArgument, `"-1"`},
	} {
		request := createRequest("pvc-"+value, gib)
		request.Parameters = map[string]string{"katadirect.io/overcommit": value}
		made, err := h.CreateVolume(t.Context(), request)
		refused(t, err, want.code, want.word)
		if got := made.GetVolume().GetVolumeContext()["katadirect.io/overcommit"]; want.code == codes.OK && got != value {
			t.Errorf("the volume's context says %q, the class %q", got, value)
		}
		// GetCapacity leaves refusals to CreateVolume.
		if room, err := h.GetCapacity(t.Context(), &csi.GetCapacityRequest{Parameters: request.Parameters}); err != nil || room.GetAvailableCapacity() == 0 {
			t.Errorf("capacity with overcommit %q: %v, %v", value, room, err)
		}
	}
}
