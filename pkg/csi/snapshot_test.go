package csi

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/katadirect/katadirect/pkg/directvolume"
)

// withPoolOn puts the pool on a real file system of its own: xfs, whose files can share blocks, or ext4, whose cannot.
func withPoolOn(fsType string) func(*host) {
	return func(h *host) {
		h.t.Helper()
		image := filepath.Join(h.t.TempDir(), "pool-disk")
		writeFile(h.t, image, "")
		must(h.t, os.Truncate(image, 8*gib))
		h.mount(fsType, image, h.path("pool"))
		must(h.t, os.Chmod(h.path("pool"), 0o700))
	}
}

// mount makes a file system in an image, and mounts it until the test ends.
func (h *host) mount(fsType, image, point string) {
	h.t.Helper()
	run(h.t, "mkfs."+fsType, "-q", image)
	must(h.t, os.MkdirAll(point, 0o700))
	run(h.t, "mount", "-o", "loop", image, point)
	h.t.Cleanup(func() { run(h.t, "umount", point) })
}

func run(t *testing.T, name string, args ...string) {
	t.Helper()
	if said, err := exec.Command(name, args...).CombinedOutput(); err != nil {
		t.Fatalf("%s %v: %v: %s", name, args, err, said)
	}
}

func onBothPools(t *testing.T, test func(t *testing.T, h *host)) {
	for _, fsType := range []string{"xfs", "ext4"} {
		t.Run(fsType, func(t *testing.T) { test(t, newHost(t, withPoolOn(fsType))) })
	}
}

func (v volume) snapshot(name string) (*csi.Snapshot, error) {
	r, err := v.h.CreateSnapshot(v.h.t.Context(), &csi.CreateSnapshotRequest{Name: name, SourceVolumeId: v.id})
	return r.GetSnapshot(), err
}

// from makes a volume of what a snapshot, or a volume, holds.
func (h *host) from(name, sourceID string, sizeBytes int64, change ...func(*csi.VolumeCapability)) (volume, *csi.Volume, error) {
	r := createRequest(name, sizeBytes, change...)
	r.VolumeContentSource = contentSource(sourceID)
	made, err := h.CreateVolume(h.t.Context(), r)
	return volume{h: h, id: made.GetVolume().GetVolumeId(), cap: r.VolumeCapabilities[0]}, made.GetVolume(), err
}

func (h *host) list(r *csi.ListSnapshotsRequest) []*csi.Snapshot {
	h.t.Helper()
	list, err := h.ListSnapshots(h.t.Context(), r)
	must(h.t, err)
	var found []*csi.Snapshot
	for _, e := range list.GetEntries() {
		found = append(found, e.GetSnapshot())
	}
	return found
}

// folders are the pool's, without the one that mkfs makes.
func (h *host) folders() []string {
	h.t.Helper()
	entries, err := os.ReadDir(h.path("pool"))
	must(h.t, err)
	var names []string
	for _, e := range entries {
		if e.Name() != ".lock" && e.Name() != "lost+found" {
			names = append(names, e.Name())
		}
	}
	return names
}

func TestASnapshotIsTakenListedRestoredAndDeleted(t *testing.T) {
	onBothPools(t, func(t *testing.T, h *host) {
		v, other := h.create("source"), h.create("other")
		writeFile(t, v.image(), "before")
		began := time.Now()
		s, err := v.snapshot("snapshot")
		must(t, err)
		writeFile(t, v.image(), "after!")
		if s.GetSourceVolumeId() != v.id || s.GetSizeBytes() != gib || !s.GetReadyToUse() ||
			s.GetCreationTime().AsTime().Before(began) || s.GetCreationTime().AsTime().After(time.Now()) ||
			s.GetAccessibleTopology()[0].GetSegments()[TopologyKey] != "node-1" {
			t.Errorf("%v", s)
		}
		h.restart()
		again, err := v.snapshot("snapshot")
		must(t, err)
		if again.String() != s.String() {
			t.Errorf("again: %v, was %v", again, s)
		}
		_, err = other.snapshot("snapshot")
		refused(t, err, codes.AlreadyExists, v.id, other.id)

		restored, described, err := h.from("restored", s.GetSnapshotId(), 3*gib/2)
		must(t, err)
		if described.GetCapacityBytes() != 3*gib/2 || described.GetContentSource().GetSnapshot().GetSnapshotId() != s.GetSnapshotId() {
			t.Errorf("%v", described)
		}
		if got := readFile(t, restored.image(), 6); got != "before" {
			t.Errorf("restored %q", got)
		}
		must(t, v.delete())
		_, err = h.DeleteSnapshot(t.Context(), &csi.DeleteSnapshotRequest{SnapshotId: s.GetSnapshotId()})
		must(t, err)
		_, err = h.DeleteSnapshot(t.Context(), &csi.DeleteSnapshotRequest{SnapshotId: s.GetSnapshotId()})
		must(t, err)
		if got := readFile(t, restored.image(), 6); got != "before" {
			t.Errorf("after the snapshot was deleted: %q", got)
		}
		_, err = h.GetSnapshot(t.Context(), &csi.GetSnapshotRequest{SnapshotId: s.GetSnapshotId()})
		refused(t, err, codes.NotFound)
		if got := h.folders(); len(got) != 2 {
			t.Errorf("the pool has %v", got)
		}
	})
}

func TestACloneIsAsItsSourceWasAndStaysSo(t *testing.T) {
	onBothPools(t, func(t *testing.T, h *host) {
		v := h.create("source")
		writeFile(t, v.image(), "before")
		clone, described, err := h.from("clone", v.id, gib)
		must(t, err)
		if described.GetContentSource().GetVolume().GetVolumeId() != v.id {
			t.Errorf("%v", described)
		}
		writeFile(t, v.image(), "after!")
		if _, again, err := h.from("clone", v.id, gib); err != nil || again.GetVolumeId() != clone.id {
			t.Errorf("again: %v, %v", again, err)
		}
		if got := readFile(t, clone.image(), 6); got != "before" {
			t.Errorf("the clone holds %q", got)
		}
		s, err := v.snapshot("s")
		must(t, err)
		for name, c := range map[string]struct {
			name, source string
			size         int64
			change       func(*csi.VolumeCapability)
			code         codes.Code
		}{
			"same name, no source":       {"clone", "", gib, nil, codes.AlreadyExists},
			"same name, other source":    {"clone", s.GetSnapshotId(), gib, nil, codes.AlreadyExists},
			"smaller":                    {"new", v.id, gib / 2, nil, codes.OutOfRange},
			"another file system":        {"new", v.id, gib, withFS("xfs"), codes.InvalidArgument},
			"no such volume":             {"new", h.driver.pool.ID("none"), gib, nil, codes.NotFound},
			"no such snapshot":           {"new", h.driver.pool.SnapshotID("none"), gib, nil, codes.NotFound},
			"a volume of another node":   {"new", "kd-00000000" + v.id[11:], gib, nil, codes.ResourceExhausted},
			"a snapshot of another node": {"new", "ks-00000000" + v.id[11:], gib, nil, codes.ResourceExhausted},
			"more than the pool has":     {"new", s.GetSnapshotId(), 1000 * gib, nil, codes.ResourceExhausted},
			"an id that leads elsewhere": {"new", "../x", gib, nil, codes.InvalidArgument},
		} {
			change := c.change
			if change == nil {
				change = withFS("ext4")
			}
			_, _, err := h.from(c.name, c.source, c.size, change)
			if t.Log(name); err == nil {
				t.Errorf("%s: no error", name)
			}
			refused(t, err, c.code)
		}
		if got := h.folders(); len(got) != 3 {
			t.Errorf("the pool has %v", got)
		}
	})
}

func TestWhatCannotBeASnapshotIsRefusedByName(t *testing.T) {
	h := newHost(t)
	v := h.create("source")
	for name, c := range map[string]struct {
		request *csi.CreateSnapshotRequest
		code    codes.Code
		words   string
	}{
		"no name":           {&csi.CreateSnapshotRequest{SourceVolumeId: v.id}, codes.InvalidArgument, "name"},
		"long name":         {&csi.CreateSnapshotRequest{SourceVolumeId: v.id, Name: strings.Repeat("n", 129)}, codes.InvalidArgument, "129"},
		"no source":         {&csi.CreateSnapshotRequest{Name: "s"}, codes.InvalidArgument, "source"},
		"unknown source":    {&csi.CreateSnapshotRequest{Name: "s", SourceVolumeId: "unknown"}, codes.NotFound, "unknown"},
		"a path":            {&csi.CreateSnapshotRequest{Name: "s", SourceVolumeId: "../x"}, codes.InvalidArgument, "../x"},
		"unknown parameter": {&csi.CreateSnapshotRequest{Name: "s", SourceVolumeId: v.id, Parameters: map[string]string{"katadirect.io/freezelimit": "1s"}}, codes.InvalidArgument, "katadirect.io/freezelimit"},
		"bad limit":         {&csi.CreateSnapshotRequest{Name: "s", SourceVolumeId: v.id, Parameters: map[string]string{parameterFreezeLimit: "2m"}}, codes.InvalidArgument, "2m"},
		"elsewhere": {&csi.CreateSnapshotRequest{Name: "s", SourceVolumeId: v.id, AccessibilityRequirements: &csi.TopologyRequirement{
			Requisite: []*csi.Topology{{Segments: map[string]string{TopologyKey: "node-2"}}}}}, codes.ResourceExhausted, "node-2"},
	} {
		_, err := h.CreateSnapshot(t.Context(), c.request)
		t.Log(name)
		refused(t, err, c.code, c.words)
	}
	for id, code := range map[string]codes.Code{"": codes.InvalidArgument, "../x": codes.InvalidArgument, "unknown": codes.OK, v.id: codes.OK} {
		_, err := h.DeleteSnapshot(t.Context(), &csi.DeleteSnapshotRequest{SnapshotId: id})
		refused(t, err, code)
	}
	if got := h.folders(); !slices.Equal(got, []string{v.id}) {
		t.Errorf("the pool has %v", got)
	}
	_, err := h.CreateSnapshot(t.Context(), &csi.CreateSnapshotRequest{Name: "s", SourceVolumeId: v.id, Parameters: map[string]string{
		"csi.storage.k8s.io/volumesnapshot/name": "s", parameterFreezeLimit: "30s"}})
	must(t, err)
}

// TestSnapshotsThatComeBetweenTwoPagesShiftNothing makes one whose id is before the first page's end, and one after it.
func TestSnapshotsThatComeBetweenTwoPagesShiftNothing(t *testing.T) {
	h := newHost(t)
	v := h.create("one")
	for i := range 4 {
		_, err := v.snapshot(fmt.Sprint("s-", i))
		must(t, err)
	}
	page := func(token string) (ids []string, next string) {
		list, err := h.ListSnapshots(t.Context(), &csi.ListSnapshotsRequest{MaxEntries: 2, StartingToken: token})
		must(t, err)
		for _, e := range list.GetEntries() {
			ids = append(ids, e.GetSnapshot().GetSnapshotId())
		}
		return ids, list.GetNextToken()
	}
	first, token := page("")
	all, _ := h.driver.pool.SnapshotPage(t.Context(), "", "", 0)
	want := first[:len(first):len(first)]
	for _, s := range all[len(first):] {
		want = append(want, s.ID)
	}
	add := func(fits func(id string) bool) string {
		for i := 0; ; i++ {
			name := fmt.Sprint("late-", i)
			if id := h.driver.pool.SnapshotID(name); fits(id) {
				_, err := v.snapshot(name)
				must(t, err)
				return id
			}
		}
	}
	add(func(id string) bool { return id < first[0] }) // its page has been given
	want = append(want, add(func(id string) bool { return id > first[1] }))
	slices.Sort(want)
	got := first
	for pages := 0; token != "" && pages < 3; pages++ {
		var more []string
		more, token = page(token)
		got = append(got, more...)
	}
	if !slices.Equal(got, want) || token != "" {
		t.Errorf("listed %v, want %v", got, want)
	}
}

func TestSnapshotsAreListedByPagesAndFilters(t *testing.T) {
	h := newHost(t)
	one, other := h.create("one"), h.create("other")
	for i := range 5 {
		_, err := one.snapshot(fmt.Sprint("one-", i))
		must(t, err)
	}
	s, err := other.snapshot("other")
	must(t, err)
	var ids []string
	token := ""
	for page := 0; page < 4; page++ {
		list, err := h.ListSnapshots(t.Context(), &csi.ListSnapshotsRequest{MaxEntries: 2, StartingToken: token})
		must(t, err)
		for _, e := range list.GetEntries() {
			ids = append(ids, e.GetSnapshot().GetSnapshotId())
		}
		// What a page ended with may go before the next.
		last := ids[len(ids)-1]
		_, err = h.DeleteSnapshot(t.Context(), &csi.DeleteSnapshotRequest{SnapshotId: last})
		must(t, err)
		if token = list.GetNextToken(); token == "" {
			break
		}
	}
	if len(ids) != 6 || !slices.IsSorted(ids) || len(slices.Compact(ids)) != 6 {
		t.Errorf("listed %v", ids)
	}
	_, err = h.ListSnapshots(t.Context(), &csi.ListSnapshotsRequest{StartingToken: "7"})
	refused(t, err, codes.Aborted)
	_, err = h.ListSnapshots(t.Context(), &csi.ListSnapshotsRequest{MaxEntries: -1})
	refused(t, err, codes.InvalidArgument)

	_, err = other.snapshot("other")
	must(t, err)
	if got := h.list(&csi.ListSnapshotsRequest{SourceVolumeId: other.id}); len(got) != 1 || got[0].GetSnapshotId() != s.GetSnapshotId() {
		t.Errorf("of the other volume: %v", got)
	}
	if got := h.list(&csi.ListSnapshotsRequest{SnapshotId: s.GetSnapshotId()}); len(got) != 1 || got[0].GetSourceVolumeId() != other.id {
		t.Errorf("by its id: %v", got)
	}
	for _, none := range []*csi.ListSnapshotsRequest{
		{SnapshotId: "unknown"}, {SourceVolumeId: "unknown"}, {SnapshotId: s.GetSnapshotId(), SourceVolumeId: one.id},
	} {
		if got := h.list(none); len(got) != 0 {
			t.Errorf("%v lists %v", none, got)
		}
	}
}

func TestAGroupSnapshotIsTakenDescribedAndDeletedAsAWhole(t *testing.T) {
	onBothPools(t, func(t *testing.T, h *host) {
		one, other := h.create("one"), h.create("other")
		writeFile(t, one.image(), "1")
		writeFile(t, other.image(), "2")
		request := &csi.CreateVolumeGroupSnapshotRequest{Name: "group", SourceVolumeIds: []string{other.id, one.id}}
		made, err := h.CreateVolumeGroupSnapshot(t.Context(), request)
		must(t, err)
		g := made.GetGroupSnapshot()
		var ids []string
		for _, s := range g.GetSnapshots() {
			ids = append(ids, s.GetSnapshotId())
			if s.GetGroupSnapshotId() != g.GetGroupSnapshotId() || !s.GetReadyToUse() ||
				!s.GetCreationTime().AsTime().Equal(g.GetCreationTime().AsTime()) {
				t.Errorf("a member is %v, the group %v", s, g)
			}
			restored, _, err := h.from("from "+s.GetSourceVolumeId(), s.GetSnapshotId(), gib)
			must(t, err)
			if got, want := readFile(t, restored.image(), 1), map[string]string{one.id: "1", other.id: "2"}[s.GetSourceVolumeId()]; got != want {
				t.Errorf("the snapshot of %s holds %q", s.GetSourceVolumeId(), got)
			}
		}
		h.restart()
		again, err := h.CreateVolumeGroupSnapshot(t.Context(), request)
		must(t, err)
		if again.GetGroupSnapshot().String() != g.String() || len(ids) != 2 || !g.GetReadyToUse() {
			t.Errorf("again %v, was %v", again, g)
		}
		got, err := h.GetVolumeGroupSnapshot(t.Context(), &csi.GetVolumeGroupSnapshotRequest{GroupSnapshotId: g.GetGroupSnapshotId(), SnapshotIds: ids})
		must(t, err)
		if got.GetGroupSnapshot().String() != g.String() {
			t.Errorf("described as %v", got)
		}
		_, err = h.CreateVolumeGroupSnapshot(t.Context(), &csi.CreateVolumeGroupSnapshotRequest{Name: "group", SourceVolumeIds: []string{one.id}})
		refused(t, err, codes.AlreadyExists)
		_, err = h.DeleteSnapshot(t.Context(), &csi.DeleteSnapshotRequest{SnapshotId: ids[0]})
		refused(t, err, codes.FailedPrecondition, g.GetGroupSnapshotId())
		_, err = h.DeleteVolumeGroupSnapshot(t.Context(), &csi.DeleteVolumeGroupSnapshotRequest{GroupSnapshotId: g.GetGroupSnapshotId(), SnapshotIds: ids[:1]})
		refused(t, err, codes.InvalidArgument, ids[0])
		for range 2 {
			_, err = h.DeleteVolumeGroupSnapshot(t.Context(), &csi.DeleteVolumeGroupSnapshotRequest{GroupSnapshotId: g.GetGroupSnapshotId(), SnapshotIds: ids})
			must(t, err)
		}
		_, err = h.GetVolumeGroupSnapshot(t.Context(), &csi.GetVolumeGroupSnapshotRequest{GroupSnapshotId: g.GetGroupSnapshotId()})
		refused(t, err, codes.NotFound)
		_, err = h.CreateVolumeGroupSnapshot(t.Context(), &csi.CreateVolumeGroupSnapshotRequest{Name: "x", SourceVolumeIds: []string{one.id, "unknown"}})
		refused(t, err, codes.NotFound)
		if got := h.folders(); len(got) != 4 {
			t.Errorf("the pool has %v", got)
		}
	})
}

// answerJSON is a handler that says something, and counts how often.
func answerJSON(answer any, count *atomic.Int32) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		count.Add(1)
		_ = json.NewEncoder(w).Encode(answer)
	}
}

// A copy counts only if the guest says that it stood still, and whatever happened the guest is asked to go on.
func TestASnapshotOfAVolumeInUseNeedsAGuestThatStoodStill(t *testing.T) {
	frozen := directvolume.Freeze{ID: 7, RemainingMilliseconds: 5000}
	for name, c := range map[string]struct {
		freeze  func(t *testing.T) http.HandlerFunc
		thaw    any // nil for a guest that does not answer
		code    codes.Code
		words   string
		unasked bool // nothing was frozen, so there is nothing to thaw
	}{
		"stood still":       {nil, directvolume.Thaw{WasFrozen: true}, codes.OK, "", false},
		"went on too early": {nil, directvolume.Thaw{Ended: "its time limit was over"}, codes.Unavailable, "time limit", false},
		"thaw fails":        {nil, nil, codes.Unavailable, "thrown away", false},
		"Kata's runtime": {func(*testing.T) http.HandlerFunc { return http.NotFound }, directvolume.Thaw{WasFrozen: true},
			codes.FailedPrecondition, "End the pod", true},
		"an agent that cannot": {func(*testing.T) http.HandlerFunc { return answerWith(http.StatusNotImplemented, "no") },
			directvolume.Thaw{WasFrozen: true}, codes.FailedPrecondition, "End the pod", true},
		"between two containers": {func(*testing.T) http.HandlerFunc { return answerWith(http.StatusConflict, "not mounted") },
			directvolume.Thaw{WasFrozen: true}, codes.Unavailable, "try again", true},
		"never stands": {answerNever, directvolume.Thaw{WasFrozen: true}, codes.Unavailable, "longer than", false},
	} {
		t.Run(name, func(t *testing.T) {
			h := newHost(t, withPoolOn("xfs"))
			v, target := h.published("pvc")
			writeFile(t, v.image(), "data")
			var frozenTimes, thawed atomic.Int32
			freeze, thaw := answerJSON(frozen, &frozenTimes), answerWith(http.StatusInternalServerError, "no")
			if c.freeze != nil {
				freeze = c.freeze(t)
			}
			if c.thaw != nil {
				thaw = answerJSON(c.thaw, &thawed)
			}
			s := h.runShim("sandbox", map[string]http.HandlerFunc{directvolume.PathFreeze: freeze, directvolume.PathThaw: thaw})
			s.claim(target)
			limit := "1m"
			if name == "never stands" {
				limit = "1s"
			}
			taken, err := h.CreateSnapshot(t.Context(), &csi.CreateSnapshotRequest{
				Name: "s", SourceVolumeId: v.id, Parameters: map[string]string{parameterFreezeLimit: limit}})
			refused(t, err, c.code, c.words)
			if c.thaw != nil && thawed.Load() == 0 != c.unasked {
				t.Errorf("the guest was asked %d times to go on", thawed.Load())
			}
			if c.code != codes.OK {
				if got := h.folders(); !slices.Equal(got, []string{v.id}) || len(h.list(&csi.ListSnapshotsRequest{})) != 0 {
					t.Errorf("what was thrown away is still there: %v", got)
				}
				return
			}
			restored, _, err := h.from("restored", taken.GetSnapshot().GetSnapshotId(), gib)
			must(t, err)
			if got := readFile(t, restored.image(), 4); got != "data" {
				t.Errorf("restored %q", got)
			}
		})
	}
}

// A runtime that can freeze and cannot copy is asked to thaw at once, not left to its limit.
func TestAGuestGoesOnWhenItsDiskCannotBeCopied(t *testing.T) {
	for name, c := range map[string]struct {
		answer http.HandlerFunc
		code   codes.Code
	}{
		"not offered": {http.NotFound, codes.FailedPrecondition},
		"not now":     {answerWith(http.StatusConflict, "it is being copied"), codes.Unavailable},
		"trouble":     {answerWith(http.StatusInternalServerError, "trouble"), codes.Unavailable},
	} {
		t.Run(name, func(t *testing.T) {
			h := newHost(t, withPoolOn("ext4"))
			v, target := h.published("pvc")
			var frozen, thawed atomic.Int32
			s := h.runShim("sandbox", map[string]http.HandlerFunc{
				directvolume.PathFreeze: answerJSON(directvolume.Freeze{ID: 1}, &frozen),
				directvolume.PathThaw:   answerJSON(directvolume.Thaw{WasFrozen: true}, &thawed),
				directvolume.PathCopy:   c.answer,
			})
			s.claim(target)
			_, err := v.snapshot("s")
			refused(t, err, c.code)
			if frozen.Load() != 1 || thawed.Load() != 1 {
				t.Errorf("frozen %d times, thawed %d times", frozen.Load(), thawed.Load())
			}
			if got := h.folders(); !slices.Equal(got, []string{v.id}) {
				t.Errorf("the pool has %v", got)
			}
		})
	}
}

// Where the pool cannot reflink the machine copies, which takes its time: the snapshot is known from the moment on
// that it is of, and ready when it is whole. Whoever calls again finds the same copy under way.
func TestASnapshotThatAMachineCopiesIsKnownBeforeItIsReady(t *testing.T) {
	h := newHost(t, withPoolOn("ext4"))
	v, target := h.published("pvc")
	var begun, frozen, thawed, cancelled atomic.Int32
	var done atomic.Bool
	s := h.runShim("sandbox", map[string]http.HandlerFunc{
		directvolume.PathFreeze: answerJSON(directvolume.Freeze{ID: 1}, &frozen),
		directvolume.PathThaw:   answerJSON(directvolume.Thaw{WasFrozen: true}, &thawed),
		directvolume.PathCopy: func(w http.ResponseWriter, r *http.Request) {
			var request directvolume.CopyRequest
			if err := json.NewDecoder(r.Body).Decode(&request); err != nil || fileSize(t, request.TargetPath) != gib {
				http.Error(w, "bad request", http.StatusBadRequest)
				return
			}
			writeFile(t, request.TargetPath, "copied")
			answerJSON(directvolume.CopyState{ID: 3}, &begun)(w, r)
		},
		directvolume.PathCopyState: func(w http.ResponseWriter, r *http.Request) {
			answerJSON(directvolume.CopyState{ID: 3, Done: done.Load()}, new(atomic.Int32))(w, r)
		},
		directvolume.PathCopyCancel: answerJSON(directvolume.CopyState{ID: 3, Done: true}, &cancelled),
	})
	s.claim(target)
	request := &csi.CreateSnapshotRequest{Name: "s", SourceVolumeId: v.id}
	impatient := func() *csi.Snapshot {
		t.Helper()
		for try := 1; ; try++ {
			ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
			r, err := h.CreateSnapshot(ctx, request)
			cancel()
			if status.Code(err) == codes.DeadlineExceeded && try < 5 {
				continue // an answer that was later than its caller; he asks again
			}
			must(t, err)
			return r.GetSnapshot()
		}
	}
	first := impatient()
	if first.GetReadyToUse() || thawed.Load() != 1 || first.GetCreationTime().GetSeconds() == 0 {
		t.Errorf("%v; thawed %d times", first, thawed.Load())
	}
	if got := h.list(&csi.ListSnapshotsRequest{SnapshotId: first.GetSnapshotId()}); len(got) != 1 || got[0].GetReadyToUse() {
		t.Errorf("listed as %v", got)
	}
	_, _, err := h.from("restored", first.GetSnapshotId(), gib)
	refused(t, err, codes.Aborted)
	refused(t, v.delete(), codes.Aborted)
	time.AfterFunc(time.Second, func() { done.Store(true) })
	taken, err := h.CreateSnapshot(t.Context(), request)
	must(t, err)
	if got := taken.GetSnapshot(); !got.GetReadyToUse() || !got.GetCreationTime().AsTime().Equal(first.GetCreationTime().AsTime()) ||
		begun.Load() != 1 || frozen.Load() != 1 {
		t.Errorf("%v, begun %d times", got, begun.Load())
	}
	restored, _, err := h.from("restored", first.GetSnapshotId(), gib)
	must(t, err)
	if got := readFile(t, restored.image(), 6); got != "copied" {
		t.Errorf("restored %q", got)
	}

	t.Run("deleted before it is ready", func(t *testing.T) {
		done.Store(false)
		request = &csi.CreateSnapshotRequest{Name: "another", SourceVolumeId: v.id}
		before := h.folders()
		s := impatient()
		_, err := h.DeleteSnapshot(t.Context(), &csi.DeleteSnapshotRequest{SnapshotId: s.GetSnapshotId()})
		must(t, err)
		if cancelled.Load() != 1 || !slices.Equal(h.folders(), before) {
			t.Errorf("cancelled %d times; the pool has %v", cancelled.Load(), h.folders())
		}
	})
	t.Run("a clone, which outlasts its caller", func(t *testing.T) {
		before := h.folders()
		create := createRequest("clone", gib)
		create.VolumeContentSource = contentSource(v.id)
		begunBefore := begun.Load()
		for range 2 {
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			_, err := h.CreateVolume(ctx, create)
			cancel()
			refused(t, err, codes.DeadlineExceeded)
		}
		for deadline := time.Now().Add(time.Minute); begun.Load() == begunBefore && time.Now().Before(deadline); {
			time.Sleep(10 * time.Millisecond) // it goes on without them
		}
		if begun.Load() != begunBefore+1 {
			t.Errorf("%d copies were begun for two calls", begun.Load()-begunBefore)
		}
		_, err := h.DeleteVolume(t.Context(), &csi.DeleteVolumeRequest{VolumeId: h.driver.pool.ID("clone")})
		must(t, err)
		if cancelled.Load() != 2 || !slices.Equal(h.folders(), before) {
			t.Errorf("cancelled %d times; the pool has %v", cancelled.Load(), h.folders())
		}
	})
	t.Run("while the driver ends", func(t *testing.T) {
		before := h.folders()
		impatient()
		h.restart()
		if cancelled.Load() != 3 || !slices.Equal(h.folders(), before) {
			t.Errorf("cancelled %d times; the pool has %v", cancelled.Load(), h.folders())
		}
	})
}

// A machine gives a copy up that nobody asks after, so the copies of a group are all asked after until the last is whole.
func TestAllCopiesOfAGroupAreAskedAfter(t *testing.T) {
	h := newHost(t, withPoolOn("ext4"))
	one, target := h.published("one")
	other, otherTarget := h.published("other")
	var begun atomic.Int32
	var asked [3]atomic.Int32
	s := h.runShim("sandbox", map[string]http.HandlerFunc{
		directvolume.PathFreeze: answerJSON(directvolume.Freeze{ID: 1}, new(atomic.Int32)),
		directvolume.PathThaw:   answerJSON(directvolume.Thaw{WasFrozen: true}, new(atomic.Int32)),
		directvolume.PathCopy: func(w http.ResponseWriter, r *http.Request) {
			answerJSON(directvolume.CopyState{ID: uint64(begun.Add(1))}, new(atomic.Int32))(w, r)
		},
		directvolume.PathCopyState: func(w http.ResponseWriter, r *http.Request) {
			var query directvolume.CopyQuery
			if err := json.NewDecoder(r.Body).Decode(&query); err != nil {
				http.Error(w, err.Error(), http.StatusBadRequest)
				return
			}
			asked[query.ID].Add(1)
			done := asked[3-query.ID].Load() > 0 // when the other has been asked after too
			answerJSON(directvolume.CopyState{ID: query.ID, Done: done}, new(atomic.Int32))(w, r)
		},
		directvolume.PathCopyCancel: answerJSON(directvolume.CopyState{Done: true}, new(atomic.Int32)),
	})
	s.claim(target)
	s.claim(otherTarget)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	made, err := h.CreateVolumeGroupSnapshot(ctx, &csi.CreateVolumeGroupSnapshotRequest{Name: "g", SourceVolumeIds: []string{one.id, other.id}})
	must(t, err)
	if got := made.GetGroupSnapshot(); len(got.GetSnapshots()) != 2 || !got.GetReadyToUse() {
		t.Errorf("%v", got)
	}
}

// An ordinary mount of the host is frozen like a guest's, and goes on.
func TestASnapshotOfAVolumeThatTheHostHasMounted(t *testing.T) {
	onBothPools(t, func(t *testing.T, h *host) {
		v := h.create("pvc")
		point := h.path("mounted")
		h.mount("ext4", v.image(), point)
		must(t, os.WriteFile(filepath.Join(point, "file"), []byte("not synced"), 0o600))
		s, err := v.snapshot("s")
		must(t, err)
		must(t, os.WriteFile(filepath.Join(point, "later"), nil, 0o600)) // hangs if it is still frozen

		restored, _, err := h.from("restored", s.GetSnapshotId(), gib)
		must(t, err)
		run(t, "e2fsck", "-fn", restored.image())
		said, err := exec.Command("debugfs", "-R", "cat /file", restored.image()).Output()
		if err != nil || string(said) != "not synced" {
			t.Errorf("the file holds %q, %v", said, err)
		}
	})
}

// A driver that is killed while the host's file system is frozen leaves it so, and the next one thaws it.
func TestADriverThawsWhatAKilledOneHasLeftFrozen(t *testing.T) {
	h := newHost(t)
	v := h.create("pvc")
	point := h.path("mounted")
	h.mount("ext4", v.image(), point)
	run(t, "fsfreeze", "--freeze", point)
	h.restart()
	written := make(chan error, 1)
	go func() { written <- os.WriteFile(filepath.Join(point, "file"), nil, 0o600) }()
	select {
	case err := <-written:
		must(t, err)
	case <-time.After(10 * time.Second):
		t.Error("the file system is still frozen")
		run(t, "fsfreeze", "--unfreeze", point)
		<-written
	}
}
