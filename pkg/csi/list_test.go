package csi

import (
	"fmt"
	"maps"
	"slices"
	"testing"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"
)

// page lists volumes, and returns their ids and the token of the next page.
func (h *host) page(token string, most int32) (ids []string, next string) {
	h.t.Helper()
	r, err := h.ListVolumes(h.t.Context(), &csi.ListVolumesRequest{StartingToken: token, MaxEntries: most})
	must(h.t, err)
	for _, e := range r.GetEntries() {
		ids = append(ids, e.GetVolume().GetVolumeId())
	}
	return ids, r.GetNextToken()
}

func TestTokenIsGoodWhenTheLastVolumeOfItsPageIsGone(t *testing.T) {
	h := newHost(t)
	byID := map[string]volume{}
	for i := range 5 {
		v := h.create(fmt.Sprint("pvc-", i))
		byID[v.id] = v
	}
	ids := slices.Sorted(maps.Keys(byID))

	first, next := h.page("", 2)
	if !slices.Equal(first, ids[:2]) || next == "" {
		t.Fatalf("the first page of two is %v with token %q; there are %v", first, next, ids)
	}
	for _, id := range first {
		must(t, byID[id].delete())
	}
	h.restart() // nothing in memory is needed for the next page
	second, next := h.page(next, 2)
	if !slices.Equal(second, ids[2:4]) || next == "" {
		t.Fatalf("the second page of two is %v with token %q, not %v", second, next, ids[2:4])
	}
	third, next := h.page(next, 2)
	if !slices.Equal(third, ids[4:]) || next != "" {
		t.Errorf("the last page is %v with token %q, not %v without one", third, next, ids[4:])
	}
	// As many as there are is no reason for another page, which would be empty.
	if all, next := h.page("", 3); len(all) != 3 || next != "" {
		t.Errorf("a page of three of three volumes is %v with token %q", all, next)
	}
}

func TestListRefusesWhatItNeverGave(t *testing.T) {
	h := newHost(t)
	v := h.create("pvc")
	for token, code := range map[string]codes.Code{
		"1": codes.Aborted, "invalid-token": codes.Aborted, v.id: codes.Aborted, "after:": codes.Aborted,
		"after:../..": codes.Aborted, "after:" + v.id + "x": codes.Aborted, "after:" + v.id: codes.OK,
	} {
		_, err := h.ListVolumes(t.Context(), &csi.ListVolumesRequest{StartingToken: token})
		refused(t, err, code)
	}
	_, err := h.ListVolumes(t.Context(), &csi.ListVolumesRequest{MaxEntries: -1})
	refused(t, err, codes.InvalidArgument, "negative")
}

// What a list and ControllerGetVolume say of a volume is what CreateVolume said, and where it is now.
func TestListAndGetDescribeAVolumeAsCreateDid(t *testing.T) {
	h := newHost(t)
	request := createRequest("pvc", 3*gib)
	request.Parameters = map[string]string{"katadirect.io/mode": "direct"}
	made, err := h.CreateVolume(t.Context(), request)
	must(t, err)
	again, err := h.CreateVolume(t.Context(), request)
	must(t, err)
	v := volume{h: h, id: made.GetVolume().GetVolumeId(), context: made.GetVolume().GetVolumeContext(), cap: capability()}
	if !proto.Equal(again, made) || v.context["katadirect.io/mode"] != "direct" {
		t.Errorf("created as %v, and then as %v", made, again)
	}
	for _, step := range []struct {
		name  string
		do    func() error
		nodes []string
	}{
		{"made", func() error { return nil }, nil},
		{"staged", v.stage, []string{"node-1"}},
		{"published", func() error { return v.publish(h.target("pod")) }, []string{"node-1"}},
		{"unpublished", func() error { return v.unpublish(h.target("pod")) }, []string{"node-1"}},
		{"unstaged", v.unstage, nil},
	} {
		must(t, step.do())
		list, err := h.ListVolumes(t.Context(), &csi.ListVolumesRequest{})
		must(t, err)
		got, err := h.ControllerGetVolume(t.Context(), &csi.ControllerGetVolumeRequest{VolumeId: v.id})
		must(t, err)
		if len(list.GetEntries()) != 1 {
			t.Fatalf("%s: the list is %v", step.name, list)
		}
		entry := list.GetEntries()[0]
		if !proto.Equal(entry.GetVolume(), made.GetVolume()) || !proto.Equal(got.GetVolume(), made.GetVolume()) {
			t.Errorf("%s: listed as %v, got as %v, made as %v", step.name, entry, got, made)
		}
		if nodes := entry.GetStatus().GetPublishedNodeIds(); !slices.Equal(nodes, step.nodes) {
			t.Errorf("%s: listed on nodes %v, not %v", step.name, nodes, step.nodes)
		}
		if nodes := got.GetStatus().GetPublishedNodeIds(); !slices.Equal(nodes, step.nodes) {
			t.Errorf("%s: got on nodes %v, not %v", step.name, nodes, step.nodes)
		}
	}
}

// What many volumes have in common is encoded once for all of them; each still has its own class's.
func TestVolumesOfSeveralClassesAreListedAsTheyWereMade(t *testing.T) {
	h := newHost(t)
	made := map[string]*csi.Volume{}
	for i, class := range []map[string]string{
		nil, {"katadirect.io/mode": "direct"}, {"katadirect.io/mode": "host"}, nil, {"katadirect.io/mode": "direct"},
		{"katadirect.io/mode": "host", "katadirect.io/allowHostMountOfGuestData": "true"},
	} {
		request := createRequest(fmt.Sprint("pvc-", i), gib)
		request.Parameters = class
		created, err := h.CreateVolume(t.Context(), request)
		must(t, err)
		made[created.GetVolume().GetVolumeId()] = created.GetVolume()
	}
	for _, when := range []string{"made", "found again"} {
		list, err := h.ListVolumes(t.Context(), &csi.ListVolumesRequest{})
		must(t, err)
		if len(list.GetEntries()) != len(made) {
			t.Fatalf("%s: %d volumes are listed", when, len(list.GetEntries()))
		}
		for _, entry := range list.GetEntries() {
			if v := entry.GetVolume(); !proto.Equal(v, made[v.GetVolumeId()]) {
				t.Errorf("%s: listed as %v, made as %v", when, v, made[v.GetVolumeId()])
			}
		}
		h.restart()
	}
}
