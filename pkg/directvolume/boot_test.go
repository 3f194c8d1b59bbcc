package directvolume

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"
)

func (h host) storeOfBoot(id string) *Store {
	return NewStore(h.root(), WithSandboxes(h.sandboxes()), WithBootID(id))
}

func TestRecordsOfEarlierBootsAreRemovedAndNoOthers(t *testing.T) {
	h := newHost(t)
	before, now := h.storeOfBoot("before"), h.storeOfBoot("now")
	linked := filepath.Join(h.dir, "var-lib-kubelet")
	must(t, os.Symlink(h.kubelet(), linked))
	must(t, before.Add(t.Context(), "/old", h.record("/dev/sdf")))
	must(t, before.Add(t.Context(), linked+"/old", h.record("/dev/sdg"))) // has an alias
	must(t, now.Add(t.Context(), linked+"/new", h.record("/dev/sdh")))
	h.added(t, "/silent", "/dev/sdi") // Kata's tool says nothing of a boot
	must(t, os.Mkdir(h.folder("/torn"), 0o700))

	removed, err := now.RemoveEarlierBoots(t.Context())
	slices.Sort(removed)
	if want := []string{"/old", h.kubelet() + "/old"}; err != nil || !slices.Equal(removed, want) {
		t.Fatalf("removed %q, %v; want %q", removed, err, want)
	}
	names := h.rootNames(t)
	want := []string{EncodeKey("/silent"), EncodeKey("/torn"), EncodeKey(linked + "/new"), EncodeKey(h.kubelet() + "/new")}
	slices.Sort(want)
	if !slices.Equal(names, want) {
		t.Fatalf("the root holds %q, want %q", names, want)
	}
	// The one that is of this boot, through its alias.
	if r, err := now.Get(t.Context(), linked+"/new"); err != nil || r.Device != "/dev/sdh" {
		t.Fatalf("%+v, %v", r, err)
	}
}

func TestARecordOfAnEarlierBootStaysWhileASandboxHasIt(t *testing.T) {
	h := newHost(t)
	must(t, h.storeOfBoot("before").Add(t.Context(), "/v", h.record(h.device(t, "disk"))))
	lease := h.alive(t, "s1")
	if _, err := h.store().Claim(t.Context(), "/v", "s1"); err != nil {
		t.Fatal(err)
	}
	now := h.storeOfBoot("now")
	if removed, err := now.RemoveEarlierBoots(t.Context()); !errors.Is(err, ErrClaimed) || len(removed) > 0 {
		t.Fatalf("removed %q, %v", removed, err)
	}
	lease.Close()
	if removed, err := now.RemoveEarlierBoots(t.Context()); err != nil || len(removed) != 1 {
		t.Fatalf("removed %q, %v", removed, err)
	}
}

// A record that is written anew, as when its volume grows, is of the boot in which that happens, and the caller's own
// copy stays as it was.
func TestTheBootIsNotedWheneverARecordIsWritten(t *testing.T) {
	h := newHost(t)
	mine := h.record("/dev/sdf")
	mine.Metadata = map[string]string{MetadataVolumeID: "v"}
	must(t, h.storeOfBoot("before").Add(t.Context(), "/v", mine))
	if len(mine.Metadata) != 1 {
		t.Errorf("the caller's record has become %+v", mine)
	}
	read, err := h.store().Get(t.Context(), "/v")
	must(t, err)
	now := h.storeOfBoot("now")
	must(t, now.Add(t.Context(), "/v", read))
	if removed, err := now.RemoveEarlierBoots(t.Context()); err != nil || len(removed) > 0 {
		t.Fatalf("removed %q, %v", removed, err)
	}
	if read, err = now.Get(t.Context(), "/v"); err != nil || read.Metadata[MetadataBootID] != "now" || read.Metadata[MetadataVolumeID] != "v" {
		t.Fatalf("%+v, %v", read, err)
	}
}

func TestTheBootHasAName(t *testing.T) {
	id, err := BootID()
	if err != nil || len(id) != 36 {
		t.Fatalf("%q, %v", id, err)
	}
}
