package csi

import (
	"encoding/json"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"

	"github.com/katadirect/katadirect/pkg/csi/facts"
	"github.com/katadirect/katadirect/pkg/directvolume"
)

// reportOf returns what the report says of a volume.
func (h *host) reportOf(id string) facts.Volume {
	h.t.Helper()
	n, err := h.driver.Report(h.t.Context(), "")
	must(h.t, err)
	for _, v := range n.Volumes {
		if v.ID == id {
			return v
		}
	}
	h.t.Fatalf("the report has no volume %s: %+v", id, n)
	return facts.Volume{}
}

// listing answers /direct-volume/list with one volume.
func listing(v directvolume.SandboxVolume) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		_ = json.NewEncoder(w).Encode([]directvolume.SandboxVolume{v})
	}
}

func TestAReportSaysWhoHasAVolumeAndHowItIs(t *testing.T) {
	h := newHost(t)
	v, target := h.published("pvc")
	idle := h.create("idle")
	frozen := time.Now().Add(-time.Minute).UTC().Truncate(time.Second)
	h.runShim("sandbox1", map[string]http.HandlerFunc{
		directvolume.PathStats: sayingIll("ReadOnly: the kernel has made it read-only"),
		directvolume.PathList: listing(directvolume.SandboxVolume{
			Device: v.image(), GuestDevice: "/dev/vda\x1b[2J", GuestPath: "/run/kata/vol", Frozen: &directvolume.Frozen{Since: frozen},
		}),
	}).claim(target)

	got := h.reportOf(v.id)
	m := got.Machine
	if got.Name != "pvc" || got.HeldBy != facts.HeldByMachine || m == nil || m.Sandbox != "sandbox1" || m.GuestPath != "/run/kata/vol" || m.Unknown != "" {
		t.Fatalf("the volume is %+v, in %+v", got, m)
	}
	if m.GuestDevice != "/dev/vda[2J" {
		t.Errorf("the guest's word comes through as %q", m.GuestDevice)
	}
	if m.FrozenSince == nil || !m.FrozenSince.Equal(frozen) {
		t.Errorf("it is frozen since %v", m.FrozenSince)
	}
	if got.SizeBytes != gib || got.FileSystem != "ext4" || got.Block || got.Usage == nil || got.Usage.TotalBytes != 1000 || time.Since(got.Usage.At) > time.Minute {
		t.Errorf("the volume is %+v, its usage %+v", got, got.Usage)
	}
	if len(got.Problems) != 1 || got.Problems[0].Reason != "ReadOnly" || got.Problems[0].Severity != "degraded" {
		t.Errorf("its problems are %+v", got.Problems)
	}

	other := h.reportOf(idle.id)
	if other.HeldBy != facts.HeldByNobody || other.Machine != nil || other.Usage != nil || len(other.Problems) != 0 || len(other.Troubles) != 0 {
		t.Errorf("an idle volume is %+v", other)
	}
	n, err := h.driver.Report(t.Context(), "")
	must(t, err)
	if n.Node != "node-1" || n.Pool.Path != h.path("pool") || n.Pool.SizeBytes == 0 || n.Pool.PromisedBytes != 2*gib || n.Next != "" {
		t.Errorf("the node is %+v", n)
	}
	page, err := h.driver.Report(t.Context(), n.Volumes[0].ID)
	must(t, err)
	if len(page.Volumes) != 1 || page.Volumes[0].ID != n.Volumes[1].ID {
		t.Errorf("the page after the first volume is %+v", page.Volumes)
	}
}

func TestAReportSaysWhichMachineHasDied(t *testing.T) {
	h := newHost(t)
	v, target := h.published("pvc")
	s := h.runShim("sandbox1", map[string]http.HandlerFunc{directvolume.PathStats: guestUsage})
	s.claim(target)
	s.die()
	got := h.reportOf(v.id)
	if got.HeldBy != facts.HeldByNobody || len(got.DeadSandboxes) != 1 || got.DeadSandboxes[0] != "sandbox1" {
		t.Errorf("the volume is %+v", got)
	}
}

// A report with a machine in it that never answers comes all the same, and the next one at once.
func TestAReportIsNotHeldUpByASilentGuest(t *testing.T) {
	h := newHost(t)
	v, target := h.published("pvc")
	h.runShim("sandbox1", map[string]http.HandlerFunc{
		directvolume.PathStats: answerNever(t), directvolume.PathList: answerNever(t),
	}).claim(target)
	got := h.reportOf(v.id)
	if got.Machine == nil || got.Machine.Unknown == "" || len(got.Problems) != 1 || got.Problems[0].Reason != "GuestNotResponding" {
		t.Errorf("the volume is %+v, in %+v", got, got.Machine)
	}
}

func TestAReportNamesADamagedVolume(t *testing.T) {
	h := newHost(t)
	v := h.create("pvc")
	must(t, os.Truncate(v.image(), gib/2))
	got := h.reportOf(v.id)
	if len(got.Problems) != 1 || got.Problems[0].Reason != "ImageShort" || got.Problems[0].Severity != "data-loss" {
		t.Errorf("its problems are %+v", got.Problems)
	}
}

func TestAReportTellsWhatWentWrongLastInWords(t *testing.T) {
	h := newHost(t)
	v, target := h.published("pvc")
	cannot := true
	s := h.runShim("sandbox1", map[string]http.HandlerFunc{
		directvolume.PathStats: guestUsage,
		directvolume.PathResize: func(w http.ResponseWriter, _ *http.Request) {
			if cannot {
				http.Error(w, "the guest is out of memory", http.StatusInternalServerError)
			}
		},
	})
	s.claim(target)
	expand := func() error {
		_, err := h.NodeExpandVolume(t.Context(), &csi.NodeExpandVolumeRequest{
			VolumeId: v.id, VolumePath: target, CapacityRange: &csi.CapacityRange{RequiredBytes: 2 * gib},
		})
		return err
	}
	for range 2 {
		if expand() == nil {
			t.Fatal("the volume has grown")
		}
	}
	got := h.reportOf(v.id).Troubles
	if len(got) != 1 || got[0].Call != "NodeExpandVolume" || got[0].Code != "Unavailable" || got[0].Times != 2 || got[0].Over != nil ||
		!strings.Contains(got[0].Message, "the guest is out of memory") {
		t.Fatalf("the troubles are %+v", got)
	}
	if _, err := h.NodeGetVolumeStats(t.Context(), &csi.NodeGetVolumeStatsRequest{VolumeId: v.id, VolumePath: "/nowhere"}); err == nil {
		t.Error("a path where nothing is was measured")
	}
	cannot = false
	must(t, expand())
	if got := h.reportOf(v.id).Troubles; len(got) != 1 || got[0].Over == nil {
		t.Errorf("after it has gone well the troubles are %+v", got)
	}
	// A call for what is no volume of this node leaves nothing behind, and neither does a deleted volume.
	if _, err := h.DeleteVolume(t.Context(), &csi.DeleteVolumeRequest{VolumeId: "../x"}); err == nil {
		t.Error("a bad id was taken")
	}
}
