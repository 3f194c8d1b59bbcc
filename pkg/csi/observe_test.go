package csi

import (
	"net/http"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"

	"github.com/katadirect/katadirect/pkg/csi/telemetry"
	"github.com/katadirect/katadirect/pkg/directvolume"
)

func TestStateSaysWhatIsOnTheHostWithoutAskingAGuest(t *testing.T) {
	h := newHost(t)
	v, target := h.published("pvc")
	writeFile(t, v.image(), "some data")
	h.create("unused")
	h.published("with a dead sandbox")
	dead := h.runShim("dead", nil)
	dead.claim(h.target("with a dead sandbox"))
	dead.die()
	answers := map[string]http.HandlerFunc{directvolume.PathStats: answerWith(http.StatusOK,
		`{"usage":[{"available":60,"total":100,"used":40,"unit":1},{"available":7,"total":10,"used":3,"unit":2}],"volume_condition":{"abnormal":true,"message":"HostIOErrors: three"}}`)}
	s := h.runShim("sandbox1", answers)
	s.claim(target)
	if _, err := v.stats(target); err != nil {
		t.Fatal(err)
	}
	if _, err := h.NodeStageVolume(t.Context(), &csi.NodeStageVolumeRequest{VolumeId: v.id}); err == nil {
		t.Fatal("a call without a path is taken")
	}
	if state, err := h.driver.State(t.Context()); err != nil || !slices.ContainsFunc(state.Volumes, func(of telemetry.Volume) bool { return of.ID == v.id && of.InMachine }) {
		t.Errorf("%v, and no machine has the volume: %+v", err, state.Volumes)
	}
	s.die() // from here on an answer can only be an old one

	state, err := h.driver.State(t.Context())
	must(t, err)
	if len(state.Volumes) != 3 || state.Damaged != 0 || state.Staged != 2 || state.Records != 2 || state.UnreadableRecords != 0 {
		t.Errorf("the state is %+v", state)
	}
	if state.Claims != 0 || state.StaleClaims != 2 {
		t.Errorf("%d claims and %d stale ones, want none and 2", state.Claims, state.StaleClaims)
	}
	for _, of := range state.Volumes {
		switch {
		case of.SizeBytes != gib:
			t.Errorf("volume %s has %d bytes", of.ID, of.SizeBytes)
		case of.InMachine:
			t.Errorf("a dead machine has volume %s", of.ID)
		case of.ID != v.id && (of.Guest != nil || of.AllocatedBytes != 0):
			t.Errorf("a volume without a guest is %+v, %+v", of, of.Guest)
		case of.ID == v.id:
			if of.Name != "pvc" || of.FileSystem != "ext4" || of.Failing["NodeStageVolume"].IsZero() || len(of.Guest.Problems) != 1 || of.Guest.Problems[0] != "HostIOErrors" {
				t.Errorf("the volume is %+v, its guest's problems are %q", of, of.Guest.Problems)
			}
			g := of.Guest
			if of.AllocatedBytes == 0 || g == nil || g.CapacityBytes != 100 || g.UsedBytes != 40 || g.AvailableBytes != 60 || g.Inodes != 10 || g.InodesUsed != 3 {
				t.Errorf("the volume is %+v, its guest says %+v", of, g)
			}
			if g != nil && time.Since(g.When) > time.Minute {
				t.Errorf("its guest said so at %v", g.When)
			}
		}
	}
	p := state.Pool
	if p.Path != h.path("pool") || p.PromisedBytes != 3*gib || p.BookedBytes <= 3*gib || p.Overcommit != 1 || p.Short || p.SizeBytes < p.FreeBytes || p.TakenBytes == 0 || p.AvailableBytes == 0 {
		t.Errorf("the pool is %+v", p)
	}
}

func TestStateCountsWhatIsBroken(t *testing.T) {
	h := newHost(t)
	v, target := h.published("pvc")
	must(t, os.Remove(v.image()))
	must(t, os.WriteFile(h.path("records", directvolume.EncodeKey(target), "mountInfo.json"), []byte("{"), 0o600))
	h.restart()
	state, err := h.driver.State(t.Context())
	must(t, err)
	if state.Damaged != 1 || len(state.Volumes) != 0 || state.UnreadableRecords != 1 || state.Records != 0 {
		t.Errorf("the state is %+v", state)
	}
}
