package directvolume

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// matchingDevices is the devices of the records that name one of those devices.
func matchingDevices(t *testing.T, s *Store, devices ...string) []string {
	t.Helper()
	entries, err := s.Matching(t.Context(), func(r Record) bool { return slices.Contains(devices, r.Device) })
	if err != nil {
		t.Fatal(err)
	}
	var found []string
	for _, e := range entries {
		found = append(found, e.Record.Device)
	}
	slices.Sort(found)
	return found
}

// settle waits until files that have been written are old enough to be remembered.
func settle() { time.Sleep(settled + 20*time.Millisecond) }

func TestMatchingSeesEachChangeOfARecordWhoeverMadeIt(t *testing.T) {
	h := newHost(t)
	s := h.store()
	a, b := volumePath(h, "a"), volumePath(h, "b")
	for _, path := range []string{a, b} {
		if err := s.Add(t.Context(), path, h.record("/dev/"+filepath.Base(path))); err != nil {
			t.Fatal(err)
		}
	}
	check := func(what string, want ...string) {
		t.Helper()
		for range 2 {
			if got := matchingDevices(t, s, "/dev/new"); !slices.Equal(got, want) {
				t.Errorf("%s: found %v, want %v", what, got, want)
			}
		}
	}
	check("at first")
	settle()
	check("remembered")

	other := h.store() // another process's
	if err := other.Add(t.Context(), a, h.record("/dev/new")); err != nil {
		t.Fatal(err)
	}
	check("replaced", "/dev/new")
	if err := other.Remove(t.Context(), a); err != nil {
		t.Fatal(err)
	}
	check("removed")
	if err := other.Add(t.Context(), a, h.record("/dev/old")); err != nil {
		t.Fatal(err)
	}
	settle()
	check("made again")

	// Kata's own tools write into the file that is there, and its size may stay the same.
	file := filepath.Join(s.Root(), EncodeKey(a), recordName)
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, []byte(strings.Replace(string(data), "/dev/old", "/dev/new", 1)), 0o600); err != nil {
		t.Fatal(err)
	}
	check("written over", "/dev/new")
}

// A file that changes twice in one step of the clock looks the same after the second change.
func TestMatchingDoesNotTrustAFileThatHasJustChanged(t *testing.T) {
	h := newHost(t)
	s := h.store()
	path := volumePath(h, "a")
	for i := range 200 {
		device := fmt.Sprintf("/dev/%03d", i)
		if err := s.Add(t.Context(), path, h.record(device)); err != nil {
			t.Fatal(err)
		}
		if got := matchingDevices(t, s, device); !slices.Equal(got, []string{device}) {
			t.Fatalf("found %v right after %s was written", got, device)
		}
	}
}

func TestWhatACallerDoesToARecordIsNotRemembered(t *testing.T) {
	h := newHost(t)
	s := h.store()
	record := h.record("/dev/some")
	record.Metadata, record.Options = map[string]string{MetadataVolumeID: "mine"}, []string{"noatime"}
	must(t, s.Add(t.Context(), volumePath(h, "a"), record))
	settle()
	mine := func(r Record) bool {
		return r.Metadata[MetadataVolumeID] == "mine" && slices.Equal(r.Options, []string{"noatime"})
	}
	for range 3 {
		entries, err := s.Matching(t.Context(), mine)
		if err != nil || len(entries) != 1 {
			t.Fatalf("found %v, %v", entries, err)
		}
		entries[0].Record.Metadata[MetadataVolumeID], entries[0].Record.Options[0] = "another", "ro"
	}
}

func TestMatchingReadsNoUnchangedRecordTwice(t *testing.T) {
	h := newHost(t)
	s := h.store()
	for i := range 3 {
		if err := s.Add(t.Context(), volumePath(h, fmt.Sprint(i)), h.record("/dev/some")); err != nil {
			t.Fatal(err)
		}
	}
	settle()
	asked := map[string]int{}
	for range 2 {
		if _, err := s.Matching(t.Context(), func(r Record) bool { asked[r.Device]++; return false }); err != nil {
			t.Fatal(err)
		}
	}
	if len(s.read.by) != 3 {
		t.Errorf("%d records are remembered", len(s.read.by))
	}
	if err := s.Remove(t.Context(), volumePath(h, "0")); err != nil {
		t.Fatal(err)
	}
	matchingDevices(t, s)
	if len(s.read.by) != 2 {
		t.Errorf("%d records are remembered after one was removed", len(s.read.by))
	}
}

func TestMatchingHasTheClaimsAsTheyAre(t *testing.T) {
	h := newHost(t)
	s := h.store()
	path := volumePath(h, "a")
	device := filepath.Join(h.dir, "disk")
	if err := os.WriteFile(device, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := s.Add(t.Context(), path, h.record(device)); err != nil {
		t.Fatal(err)
	}
	matchingDevices(t, s, device)
	settle()
	matchingDevices(t, s, device)
	lease, err := h.sandboxes().AcquireLease("box")
	if err != nil {
		t.Fatal(err)
	}
	defer lease.Close()
	if _, err := s.Claim(t.Context(), path, "box"); err != nil {
		t.Fatal(err)
	}
	entries, err := s.Matching(t.Context(), func(Record) bool { return true })
	if err != nil || len(entries) != 1 || !slices.Equal(entries[0].Sandboxes, []string{"box"}) || entries[0].VolumePath != path {
		t.Errorf("found %+v, %v", entries, err)
	}
}

func TestMatchingLeavesOutWhatCannotBeRead(t *testing.T) {
	h := newHost(t)
	s := h.store()
	path := volumePath(h, "a")
	if err := s.Add(t.Context(), path, h.record("/dev/some")); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(s.Root(), EncodeKey(path), recordName), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(s.Root(), tempName()), 0o700); err != nil {
		t.Fatal(err)
	}
	if got := matchingDevices(t, s, "/dev/some", ""); len(got) != 0 {
		t.Errorf("found %v", got)
	}
}

func volumePath(h host, name string) string { return filepath.Join(h.kubelet(), name) }
