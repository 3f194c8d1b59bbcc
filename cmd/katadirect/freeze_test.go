package main

import (
	"encoding/json"
	"math"
	"net/http"
	"strings"
	"sync"
	"testing"

	"github.com/katadirect/katadirect/pkg/directvolume"
)

func TestFreezeAndThawOfAVolumeByPathAndByID(t *testing.T) {
	n := newNode(t)
	device := n.claimed(t, "v", "s1")
	var mu sync.Mutex // the tool is a process of its own: nothing else orders what it asks with what is read here
	var asked directvolume.FreezeRequest
	thawed := directvolume.Thaw{WasFrozen: true}
	n.serve(t, "s1", func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		switch r.URL.Path {
		case directvolume.PathFreeze:
			must(json.NewDecoder(r.Body).Decode(&asked), json.NewEncoder(w).Encode(directvolume.Freeze{ID: 41, RemainingMilliseconds: 20000}))
		case directvolume.PathThaw:
			var request directvolume.ThawRequest
			must(json.NewDecoder(r.Body).Decode(&request))
			if request != (directvolume.ThawRequest{VolumePath: device, ID: 41}) {
				http.Error(w, "another one", http.StatusConflict)
				return
			}
			must(json.NewEncoder(w).Encode(thawed))
		case directvolume.PathList:
			must(json.NewEncoder(w).Encode([]directvolume.SandboxVolume{{Device: device, GuestDevice: "/dev/vda", GuestPath: "/g", SizeBytes: math.MaxUint64,
				Containers: []string{"c1"}, Frozen: &directvolume.Frozen{RemainingMilliseconds: 77}}}))
		case directvolume.PathStats:
			must(json.NewEncoder(w).Encode(directvolume.VolumeStats{Condition: directvolume.VolumeCondition{Message: "fine"}}))
		}
	})
	lastAsked := func() directvolume.FreezeRequest {
		mu.Lock()
		defer mu.Unlock()
		return asked
	}
	got := n.run(t, "volume", "freeze", "id-v", "--limit", "20s")
	if asked := lastAsked(); got.status != 0 || got.stdout != "41\n" || asked != (directvolume.FreezeRequest{VolumePath: device, LimitMilliseconds: 20000}) {
		t.Errorf("%+v, asked %+v", got, asked)
	}
	if got := n.run(t, "volume", "freeze", "/v", "-o", "json"); !strings.Contains(got.stdout, `"id": 41`) || lastAsked().LimitMilliseconds != 10000 {
		t.Errorf("%+v, asked %+v", got, lastAsked())
	}
	if got := n.run(t, "volume", "list", "--sandbox", "s"); got.status != 0 || !strings.Contains(got.stdout, "/dev/vda") ||
		!strings.Contains(got.stdout, "77 ms left") || !strings.Contains(got.stdout, "16 EiB") { // the size is what a guest said
		t.Errorf("%+v", got)
	}
	if got := n.run(t, "volume", "stats", "/v"); got.status != 0 || !strings.Contains(got.stdout, "fine") {
		t.Errorf("%+v", got)
	}
	if got := n.run(t, "volume", "thaw", "/v", "--id", "41"); got != (answer{}) {
		t.Errorf("%+v", got)
	}
	mu.Lock()
	thawed = directvolume.Thaw{Ended: "its time limit was over"}
	mu.Unlock()
	if got := n.run(t, "volume", "thaw", "/v", "--id", "41"); got.status != exitThawed || !strings.Contains(got.stderr, "time limit was over") {
		t.Errorf("%+v", got)
	}
	if got := n.run(t, "volume", "thaw", "/v", "--id", "40"); got.status != exitFailed || !strings.Contains(got.stderr, "another one") {
		t.Errorf("%+v", got)
	}
}

func TestARuntimeThatCannotFreezeIsToldByItsStatus(t *testing.T) {
	n := newNode(t)
	n.claimed(t, "v", "s1")
	n.serve(t, "s1", http.NotFound) // as Kata's shim
	for _, args := range [][]string{{"volume", "freeze", "/v"}, {"volume", "thaw", "/v"}, {"volume", "list", "--sandbox", "s1"}} {
		if got := n.run(t, args...); got.status != exitCannot || !strings.Contains(got.stderr, "not offered") {
			t.Errorf("%q: %+v", args, got)
		}
	}
	for status, args := range map[int][]string{
		exitUsage:    {"volume", "freeze", "/v", "--limit", "2m"},
		exitNotFound: {"volume", "list", "--sandbox", "other"},
	} {
		if got := n.run(t, args...); got.status != status {
			t.Errorf("%q: %+v", args, got)
		}
	}
}
