package csi

import (
	"encoding/json"
	"math"
	"net/http"
	"sync/atomic"
	"testing"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc/codes"

	"github.com/katadirect/katadirect/pkg/directvolume"
)

// guestUsage answers with one usage in bytes and one in inodes.
func guestUsage(w http.ResponseWriter, _ *http.Request) {
	json.NewEncoder(w).Encode(directvolume.VolumeStats{Usage: []directvolume.VolumeUsage{
		{Available: 700, Total: 1000, Used: 250, Unit: directvolume.UnitBytes},
		{Available: 90, Total: 100, Used: 10, Unit: directvolume.UnitInodes},
		{Available: 1, Total: 1, Unit: 17}, // a unit from the future
	}})
}

func checkGuestUsage(t *testing.T, usage []*csi.VolumeUsage) {
	t.Helper()
	if len(usage) != 2 || usage[0].GetUnit() != csi.VolumeUsage_BYTES || usage[0].GetAvailable() != 700 ||
		usage[0].GetTotal() != 1000 || usage[0].GetUsed() != 250 ||
		usage[1].GetUnit() != csi.VolumeUsage_INODES || usage[1].GetTotal() != 100 {
		t.Errorf("usage is %v", usage)
	}
}

func TestStatsComeFromTheGuest(t *testing.T) {
	h := newHost(t)
	v, target := h.published("pvc")
	device := make(chan string, 1)
	s := h.runShim("sandbox1", map[string]http.HandlerFunc{directvolume.PathStats: func(w http.ResponseWriter, r *http.Request) {
		device <- r.URL.Query().Get("path")
		guestUsage(w, r)
	}})
	s.claim(target)
	usage, err := v.stats(target)
	must(t, err)
	checkGuestUsage(t, usage)
	if got := <-device; got != v.image() {
		t.Errorf("the guest was asked for %q, want %q", got, v.image())
	}
}

func TestStatsWithoutAMachineAreTheLastKnownOrTheImages(t *testing.T) {
	h := newHost(t)
	v, target := h.published("pvc")
	writeFile(t, v.image(), "data")
	usage, err := v.stats(target)
	must(t, err)
	if len(usage) != 1 || usage[0].GetTotal() != gib || usage[0].GetUsed()+usage[0].GetAvailable() != gib {
		t.Errorf("usage of the image is %v", usage)
	}
	s := h.runShim("sandbox1", map[string]http.HandlerFunc{directvolume.PathStats: guestUsage})
	s.claim(target)
	_, err = v.stats(target)
	must(t, err)
	s.die()
	usage, err = v.stats(h.staging(v.id))
	must(t, err)
	checkGuestUsage(t, usage)
}

// hangingGuest says how full a volume is, or nothing at all.
type hangingGuest struct {
	hangs   atomic.Bool
	unheard atomic.Int32 // questions while it hung
	never   http.HandlerFunc
}

func (g *hangingGuest) answer(w http.ResponseWriter, r *http.Request) {
	if !g.hangs.Load() {
		guestUsage(w, r)
		return
	}
	g.unheard.Add(1)
	g.never(w, r)
}

// looksAtSilence are so many that, if each waited for a guest as long as the first, the question would be given up and
// asked again meanwhile.
const looksAtSilence = 12

// nobodyWaited checks that the first question is the one that is still under way.
func (g *hangingGuest) nobodyWaited(t *testing.T) {
	t.Helper()
	if n := g.unheard.Load(); n != 1 {
		t.Errorf("the guest was asked %d times, so somebody has waited for it", n)
	}
}

func TestStatsOfAGuestThatDoesNotAnswer(t *testing.T) {
	h := newHost(t)
	v, target := h.published("pvc")
	guest := &hangingGuest{never: answerNever(t)}
	s := h.runShim("sandbox1", map[string]http.HandlerFunc{directvolume.PathStats: guest.answer})
	s.claim(target)
	guest.hangs.Store(true)
	for range looksAtSilence {
		_, err := v.stats(target)
		refused(t, err, codes.Unavailable, v.id)
	}
	guest.nobodyWaited(t)
	s.die() // and comes back as another machine
	guest.hangs.Store(false)
	s = h.runShim("sandbox2", map[string]http.HandlerFunc{directvolume.PathStats: guest.answer})
	s.claim(target)
	_, err := v.stats(target)
	must(t, err)
	guest.hangs.Store(true)
	usage, err := v.stats(target)
	must(t, err)
	checkGuestUsage(t, usage)
}

func TestStatsOfAGuestAreNeverMoreThanCanBe(t *testing.T) {
	usage := usageOf(directvolume.VolumeStats{Usage: []directvolume.VolumeUsage{
		{Available: math.MaxUint64, Total: 1 << 63, Used: math.MaxInt64, Unit: directvolume.UnitBytes},
		{Available: math.MaxUint64, Total: math.MaxUint64, Used: math.MaxUint64, Unit: directvolume.UnitInodes},
		{Total: 1, Unit: directvolume.UnitBytes},
	}}, gib)
	if len(usage) != 2 {
		t.Fatalf("a guest's numbers became %v", usage)
	}
	for i, most := range []int64{gib, math.MaxInt64} {
		if u := usage[i]; u.GetTotal() != most || u.GetAvailable() > most || u.GetUsed() > most || u.GetAvailable() < 0 || u.GetUsed() < 0 {
			t.Errorf("a guest's numbers became %v", u)
		}
	}
}

func TestStatsOfAnUnknownPathAreNotFound(t *testing.T) {
	h := newHost(t)
	v, target := h.published("pvc")
	for _, path := range []string{"relative", h.path("elsewhere"), "/", target + "/.."} {
		_, err := v.stats(path)
		refused(t, err, codes.NotFound, path)
	}
	_, err := v.stats("")
	refused(t, err, codes.InvalidArgument)
}
