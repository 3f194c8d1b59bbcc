package directvolume

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestEncodeKeyMakesKatasNames(t *testing.T) {
	// The first two are vectors of Kata's own tests.
	tests := map[string]string{
		"abcdddd":          "YWJjZGRkZA==",
		"../../etc/passwd": "Li4vLi4vZXRjL3Bhc3N3ZA==",
		"/a?>":             "L2E_Pg==",
		"/a~~\xff":         "L2F-fv8=",
	}
	for path, want := range tests {
		if got := EncodeKey(path); got != want {
			t.Errorf("%q: got %q, want %q", path, got, want)
		}
	}
}

func TestLongestKeyFitsInAFileName(t *testing.T) {
	h := newHost(t)
	fits := "/" + strings.Repeat("k", maxKeyBytes-1)
	h.added(t, fits, "/dev/sdf")
	if got, err := h.store().Get(t.Context(), fits); err != nil || got.Device != "/dev/sdf" {
		t.Fatalf("got %+v, %v", got, err)
	}
	if err := h.store().Add(t.Context(), fits+"k", h.record("/dev/sdf")); !errors.Is(err, ErrInvalidKey) {
		t.Fatalf("one byte more: %v", err)
	}
}

func TestKeysThatCannotBeRecordsAreRefused(t *testing.T) {
	tests := map[string]string{
		"empty":      "",
		"relative":   "var/lib/kubelet/pods/a/mount",
		"dot":        ".",
		"dots":       "../../etc/passwd",
		"dots later": "/var/lib/../../etc",
		"dots last":  "/var/lib/..",
		"root":       "/",
		"root twice": "//.",
		"NUL":        "/var/lib/\x00/mount",
		"too long":   "/" + strings.Repeat("k", maxKeyBytes),
	}
	for name, path := range tests {
		t.Run(name, func(t *testing.T) {
			h := newHost(t)
			h.added(t, "/keep", "/dev/sdf")
			store := h.store()
			if err := store.Add(t.Context(), path, h.record("/dev/sdf")); !errors.Is(err, ErrInvalidKey) {
				t.Errorf("Add: %v", err)
			}
			if err := store.Remove(t.Context(), path); !errors.Is(err, ErrInvalidKey) {
				t.Errorf("Remove: %v", err)
			}
			// For readers such a path has no record, and they can tell why.
			if _, err := store.Get(t.Context(), path); !errors.Is(err, ErrInvalidKey) || !errors.Is(err, ErrNotFound) {
				t.Errorf("Get: %v", err)
			}
			if _, err := store.Claim(t.Context(), path, "s1"); !errors.Is(err, ErrInvalidKey) || !errors.Is(err, ErrNotFound) {
				t.Errorf("Claim: %v", err)
			}
			if names := h.rootNames(t); len(names) != 1 || names[0] != EncodeKey("/keep") {
				t.Errorf("the root now holds %q", names)
			}
		})
	}
}

func TestSymbolicLinksAreResolved(t *testing.T) {
	h := newHost(t)
	linked := filepath.Join(h.dir, "var-lib-kubelet")
	if err := os.Symlink(h.kubelet(), linked); err != nil {
		t.Fatal(err)
	}
	link := filepath.Join(h.kubelet(), "link")
	if err := os.Symlink("target", link); err != nil {
		t.Fatal(err)
	}
	tests := map[string]struct{ path, want string }{
		"plain":                        {h.kubelet() + "/v", h.kubelet() + "/v"},
		"linked parent, nothing there": {linked + "/pods/1/mount", h.kubelet() + "/pods/1/mount"},
		"last component dangles":       {linked + "/link", h.kubelet() + "/link"},
		"slashes and dots":             {linked + "//pods/./1/mount/", h.kubelet() + "/pods/1/mount"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			h.added(t, test.path, "/dev/sdf")
			if _, err := os.Stat(filepath.Join(h.folder(test.want), "mountInfo.json")); err != nil {
				t.Error(err)
			}
			// Whoever encodes the path as it was given finds it too: Kata's runtimes do.
			if _, err := os.Stat(filepath.Join(h.folder(test.path), "mountInfo.json")); err != nil {
				t.Error(err)
			}
			for _, path := range []string{test.path, test.want} {
				if got, err := h.store().Get(t.Context(), path); err != nil || got.Device != "/dev/sdf" {
					t.Errorf("Get(%s): %+v, %v", path, got, err)
				}
			}
			entries, err := h.store().List(t.Context())
			if err != nil || len(entries) != 1 || entries[0].VolumePath != test.want {
				t.Errorf("List: %+v, %v", entries, err)
			}
			if err := h.store().Remove(t.Context(), test.path); err != nil {
				t.Error(err)
			}
			if names := h.rootNames(t); len(names) != 0 {
				t.Errorf("left over: %q", names)
			}
		})
	}
	t.Run("last component leads somewhere", func(t *testing.T) {
		if err := os.Mkdir(filepath.Join(h.kubelet(), "target"), 0o755); err != nil {
			t.Fatal(err)
		}
		h.added(t, linked+"/link", "/dev/sdf")
		if _, err := os.Stat(h.folder(h.kubelet() + "/target")); err != nil {
			t.Error(err)
		}
	})
	t.Run("loop", func(t *testing.T) {
		loop := filepath.Join(h.dir, "loop")
		if err := os.Symlink("loop", loop); err != nil {
			t.Fatal(err)
		}
		if err := h.store().Add(t.Context(), loop+"/x", h.record("/dev/sdf")); !errors.Is(err, ErrInvalidKey) {
			t.Error(err)
		}
	})
	t.Run("below a file", func(t *testing.T) {
		if err := h.store().Add(t.Context(), h.device(t, "file")+"/x", h.record("/dev/sdf")); !errors.Is(err, ErrInvalidKey) {
			t.Error(err)
		}
	})
}

// A driver that does not resolve links (Kata's) writes under the path as it got it.
func TestRecordOfADriverThatDoesNotResolveLinksIsFound(t *testing.T) {
	h := newHost(t)
	linked := filepath.Join(h.dir, "linked")
	if err := os.Symlink(h.kubelet(), linked); err != nil {
		t.Fatal(err)
	}
	device := h.device(t, "disk")
	volumePath := linked + "/mount"
	writeRecord(t, h.folder(volumePath), `{"volume-type":"directvol","device":"`+device+`","fstype":"ext4"}`)
	h.alive(t, "s1")
	if _, err := h.store().Claim(t.Context(), volumePath, "s1"); err != nil {
		t.Fatal(err)
	}
	if id, err := h.store().SandboxFor(t.Context(), volumePath); err != nil || id != "s1" {
		t.Fatalf("got %q, %v", id, err)
	}
	if err := h.store().Remove(t.Context(), volumePath); !errors.Is(err, ErrClaimed) {
		t.Fatalf("removed under a living sandbox: %v", err)
	}
	if err := h.store().Release(t.Context(), volumePath, "s1"); err != nil {
		t.Fatal(err)
	}
	if err := h.store().Remove(t.Context(), volumePath); err != nil {
		t.Fatal(err)
	}
	if names := h.rootNames(t); len(names) != 0 {
		t.Fatalf("left over: %q", names)
	}
}

func FuzzDecodeKey(f *testing.F) {
	for _, name := range []string{"", "YWJjZGRkZA==", "L2E=", "L2F=", "L2E", "L2E_Pg==", "L2E/Pg==", ".tmp-a", "L2\nE=", "Lw==", "L2EvLi4="} {
		f.Add(name)
	}
	f.Fuzz(func(t *testing.T, name string) {
		path, err := DecodeKey(name)
		if err != nil {
			if !errors.Is(err, ErrInvalidKey) {
				t.Fatalf("an error that is not ErrInvalidKey: %v", err)
			}
			return
		}
		if EncodeKey(path) != name {
			t.Fatalf("%q and %q both stand for %q", name, EncodeKey(path), path)
		}
		if !strings.HasPrefix(path, "/") || len(name) > 255 || strings.Contains(path, "\x00") {
			t.Fatalf("accepted %q", path)
		}
	})
}
