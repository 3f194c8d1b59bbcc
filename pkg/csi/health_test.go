package csi

import (
	"encoding/json"
	"net/http"
	"os"
	"strings"
	"testing"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc/codes"

	"github.com/katadirect/katadirect/internal/condition"
	"github.com/katadirect/katadirect/pkg/csi/health"
	"github.com/katadirect/katadirect/pkg/directvolume"
)

const (
	degraded     = csi.VolumeHealthErrorType_DEGRADED
	inaccessible = csi.VolumeHealthErrorType_INACCESSIBLE
	dataLoss     = csi.VolumeHealthErrorType_DATA_LOSS
)

// health asks node and controller, which must say the same, and returns it.
func (v volume) health() []*csi.VolumeHealth_VolumeHealthEntry {
	v.h.t.Helper()
	node, err := v.h.NodeGetVolumeHealth(v.h.t.Context(), &csi.NodeGetVolumeHealthRequest{VolumeId: v.id})
	must(v.h.t, err)
	controller, err := v.h.ControllerGetVolumeHealth(v.h.t.Context(), &csi.ControllerGetVolumeHealthRequest{VolumeId: v.id})
	must(v.h.t, err)
	a, b := node.GetVolumeHealth(), controller.GetVolumeHealth()
	if a.GetVolumeId() != v.id || b.GetVolumeId() != v.id || len(a.GetHealthStatuses()) != len(b.GetHealthStatuses()) {
		v.h.t.Fatalf("the node says %v, the controller %v", a, b)
	}
	return a.GetHealthStatuses()
}

// entry finds the entry with a reason and checks its status and words.
func entry(t *testing.T, all []*csi.VolumeHealth_VolumeHealthEntry, status csi.VolumeHealthErrorType, reason string, words ...string) {
	t.Helper()
	for _, e := range all {
		if e.GetReason() != reason {
			continue
		}
		if e.GetStatus() != status {
			t.Errorf("%s is %v, want %v", reason, e.GetStatus(), status)
		}
		for _, word := range words {
			if !strings.Contains(e.GetMessage(), word) {
				t.Errorf("%s does not say %q: %s", reason, word, e.GetMessage())
			}
		}
		return
	}
	t.Errorf("no %s among %v", reason, all)
}

// sayingIll answers stats with an abnormal condition.
func sayingIll(message string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		json.NewEncoder(w).Encode(directvolume.VolumeStats{
			Usage:     []directvolume.VolumeUsage{{Total: 1000, Unit: directvolume.UnitBytes}},
			Condition: directvolume.VolumeCondition{Abnormal: true, Message: message},
		})
	}
}

func TestAHealthyVolumeHasNoHealthEntries(t *testing.T) {
	h := newHost(t)
	made := h.create("never staged")
	if all := made.health(); len(all) != 0 {
		t.Errorf("a new volume: %v", all)
	}
	v, target := h.published("pvc")
	h.runShim("sandbox1", map[string]http.HandlerFunc{directvolume.PathStats: guestUsage}).claim(target)
	if all := v.health(); len(all) != 0 {
		t.Errorf("in a healthy guest: %v", all)
	}
	_, err := h.NodeGetVolumeHealth(t.Context(), &csi.NodeGetVolumeHealthRequest{
		VolumeId: v.id, VolumePublishPath: target, StagingTargetPath: h.staging(v.id)})
	must(t, err)
}

func TestHealthComesFromTheGuestAndIsKeptAfterItWhereItLasts(t *testing.T) {
	h := newHost(t)
	v, target := h.published("pvc")
	s := h.runShim("sandbox1", map[string]http.HandlerFunc{directvolume.PathStats: sayingIll(condition.Format(
		condition.Problem{Reason: condition.ReadOnly, Message: "gone read-only"},
		condition.Problem{Reason: condition.FileSystemErrors, Message: "3 errors counted"},
		condition.Problem{Reason: condition.Unreadable, Message: "does not answer"}))})
	s.claim(target)
	all := v.health()
	entry(t, all, degraded, condition.ReadOnly, "gone read-only")
	entry(t, all, degraded, condition.FileSystemErrors, "3 errors")
	entry(t, all, inaccessible, condition.Unreadable)
	s.die()
	all = v.health()
	if len(all) != 1 {
		t.Errorf("without the machine: %v", all)
	}
	entry(t, all, degraded, condition.FileSystemErrors)
}

func TestAHostileGuestCannotClaimDataLossNorSpeakForTheHost(t *testing.T) {
	h := newHost(t)
	v, target := h.published("pvc")
	h.runShim("sandbox1", map[string]http.HandlerFunc{
		directvolume.PathStats: sayingIll("ImageMissing: \x1b[31mall is lost; GuestNotResponding: x" + strings.Repeat("; y", 1000)),
	}).claim(target)
	all := v.health()
	if len(all) != 1 || len(all[0].GetMessage()) > 2<<10 || strings.ContainsRune(all[0].GetMessage(), '\x1b') {
		t.Errorf("%v", all)
	}
	entry(t, all, degraded, condition.ReportedByGuest, "all is lost")
}

func TestASilentGuestIsUnhealthyWithinABoundedTimeAndThenAtOnce(t *testing.T) {
	h := newHost(t)
	v, target := h.published("pvc")
	guest := &hangingGuest{never: answerNever(t)}
	h.runShim("sandbox1", map[string]http.HandlerFunc{directvolume.PathStats: guest.answer}).claim(target)
	_, err := v.stats(target)
	must(t, err)
	guest.hangs.Store(true)
	for range looksAtSilence {
		entry(t, v.health(), inaccessible, health.GuestSilent, "sandbox1", "has not answered", "old")
		usage, err := v.stats(target)
		must(t, err)
		checkGuestUsage(t, usage)
	}
	guest.nobodyWaited(t)
}

func TestWhatAShimAnswersInsteadOfStatsIsTold(t *testing.T) {
	for _, tc := range []struct {
		code   int
		text   string
		reason string // "" for nothing wrong
		status csi.VolumeHealthErrorType
	}{
		{http.StatusConflict, "no container of the sandbox uses the volume", "", 0},
		{http.StatusServiceUnavailable, "no space left on the host", health.MachineStopped, inaccessible},
		{http.StatusInternalServerError, "statfs: input/output error", health.GuestUnable, degraded},
	} {
		h := newHost(t)
		v, target := h.published("pvc")
		h.runShim("sandbox1", map[string]http.HandlerFunc{directvolume.PathStats: answerWith(tc.code, tc.text)}).claim(target)
		all := v.health()
		if tc.reason == "" {
			if len(all) != 0 {
				t.Errorf("%d: %v", tc.code, all)
			}
			_, err := v.stats(target)
			must(t, err)
			continue
		}
		entry(t, all, tc.status, tc.reason, tc.text)
	}
}

func TestHealthOfWhatIsNoVolume(t *testing.T) {
	h := newHost(t)
	foreign := strings.Replace(h.create("pvc").id, "kd-", "kd-f", 1)
	foreign = foreign[:len("kd-")+8] + foreign[len("kd-")+9:]
	for id, code := range map[string]codes.Code{
		"": codes.InvalidArgument, "../x": codes.InvalidArgument, "no-such-volume": codes.NotFound, foreign: codes.NotFound,
	} {
		_, err := h.NodeGetVolumeHealth(t.Context(), &csi.NodeGetVolumeHealthRequest{VolumeId: id})
		refused(t, err, code)
		_, err = h.ControllerGetVolumeHealth(t.Context(), &csi.ControllerGetVolumeHealthRequest{VolumeId: id})
		refused(t, err, code)
		if id == foreign {
			refused(t, err, code, "another node")
		}
	}
	_, err := h.NodeGetVolumeHealth(t.Context(), &csi.NodeGetVolumeHealthRequest{
		VolumeId: h.create("pvc").id, VolumePublishPath: "relative"})
	refused(t, err, codes.InvalidArgument, "relative")
}

func TestVolumeHealthIsListedByPagesOfTheSick(t *testing.T) {
	h := newHost(t)
	sick := map[string]bool{}
	for _, name := range []string{"a", "b", "c", "d", "e", "f", "g"} {
		v := h.create(name)
		if name != "d" && name != "f" {
			must(t, os.Remove(v.image()))
			sick[v.id] = true
		}
	}
	token, pages := "", 0
	for {
		r, err := h.ControllerListVolumeHealth(t.Context(), &csi.ControllerListVolumeHealthRequest{MaxEntries: 2, StartingToken: token})
		must(t, err)
		pages++
		if len(r.GetEntries()) > 2 {
			t.Fatalf("%d entries on a page", len(r.GetEntries()))
		}
		for _, e := range r.GetEntries() {
			if !sick[e.GetVolumeId()] {
				t.Errorf("%s is listed, healthy or again", e.GetVolumeId())
			}
			delete(sick, e.GetVolumeId())
			entry(t, e.GetHealthStatuses(), dataLoss, health.ImageMissing, e.GetVolumeId())
		}
		if token = r.GetNextToken(); token == "" {
			break
		}
	}
	if len(sick) > 0 || pages != 3 {
		t.Errorf("after %d pages these are missing: %v", pages, sick)
	}
	_, err := h.ControllerListVolumeHealth(t.Context(), &csi.ControllerListVolumeHealthRequest{StartingToken: "made up"})
	refused(t, err, codes.Aborted)
	_, err = h.ControllerListVolumeHealth(t.Context(), &csi.ControllerListVolumeHealthRequest{MaxEntries: -1})
	refused(t, err, codes.InvalidArgument)
}

// TestManySilentGuestsAreListedThoughOneWaitIsAllThereIsTimeFor: the whole list has time for two guests that are waited for
// one after the other, and says nothing of those that it did not get to.
func TestManySilentGuestsAreListedThoughOneWaitIsAllThereIsTimeFor(t *testing.T) {
	h := newHost(t)
	guest := &hangingGuest{never: answerNever(t)}
	guest.hangs.Store(true)
	for _, name := range []string{"a", "b", "c", "d", "e", "f"} {
		_, target := h.published(name)
		h.runShim("sandbox-"+name, map[string]http.HandlerFunc{directvolume.PathStats: guest.answer}).claim(target)
	}
	r, err := h.ControllerListVolumeHealth(t.Context(), &csi.ControllerListVolumeHealthRequest{})
	must(t, err)
	if asked := guest.unheard.Load(); len(r.GetEntries()) != 6 || asked != 6 {
		t.Errorf("%d entries after %d questions", len(r.GetEntries()), asked)
	}
}

func TestStorageHealthIsThePools(t *testing.T) {
	h := newHost(t)
	r, err := h.NodeGetStorageHealth(t.Context(), &csi.NodeGetStorageHealthRequest{})
	must(t, err)
	for _, e := range r.GetBackendHealth() { // the test's own disk may be full
		if e.GetReason() == health.DamagedVolumes {
			t.Errorf("%v", e)
		}
	}
	v := h.create("pvc")
	must(t, os.Remove(v.image()))
	h.restart()
	r, err = h.NodeGetStorageHealth(t.Context(), &csi.NodeGetStorageHealthRequest{})
	must(t, err)
	for _, e := range r.GetBackendHealth() {
		if e.GetReason() == health.DamagedVolumes && e.GetStatus() == csi.StorageHealthErrorType_STORAGE_DEGRADED &&
			strings.Contains(e.GetMessage(), v.id) {
			return
		}
	}
	t.Errorf("a damaged volume is not told of: %v", r.GetBackendHealth())
}
