package directvolume

import (
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"syscall"
	"testing"
)

func writeRecord(t *testing.T, folder, text string) {
	t.Helper()
	if err := os.MkdirAll(folder, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(folder, "mountInfo.json"), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestAddedRecordHasKatasPlaceBytesAndModes(t *testing.T) {
	h := newHost(t)
	defer syscall.Umask(syscall.Umask(0o277)) // modes must not depend on it
	volumePath := h.added(t, "/var/lib/kubelet/pods/1/mount", "/dev/sdf")

	folder := filepath.Join(h.root(), "L3Zhci9saWIva3ViZWxldC9wb2RzLzEvbW91bnQ=")
	if folder != h.folder(volumePath) {
		t.Fatalf("unexpected folder %s", h.folder(volumePath))
	}
	data, err := os.ReadFile(filepath.Join(folder, "mountInfo.json"))
	if want := `{"volume-type":"directvol","device":"/dev/sdf","fstype":"ext4"}`; err != nil || string(data) != want {
		t.Errorf("got %s, %v", data, err)
	}
	for path, want := range map[string]os.FileMode{folder: 0o700 | os.ModeDir, filepath.Join(folder, "mountInfo.json"): 0o600} {
		if info, err := os.Stat(path); err != nil || info.Mode() != want {
			t.Errorf("%s: mode %v, want %v (%v)", path, info.Mode(), want, err)
		}
	}
	if entries, _ := os.ReadDir(folder); len(entries) != 1 {
		t.Errorf("Kata takes every other file for a sandbox: %v", entries)
	}
}

func TestAddMakesThePrivateRoot(t *testing.T) {
	h := newHost(t)
	h.added(t, "/v", "/dev/sdf")
	if info, err := os.Stat(h.root()); err != nil || info.Mode().Perm() != 0o700 {
		t.Fatalf("%v, %v", info.Mode(), err)
	}
}

func TestGetReturnsWhatWasAdded(t *testing.T) {
	h := newHost(t)
	want := Record{VolumeType: VolumeTypeDirect, Device: "/pool/vol/disk.img", FSType: "xfs",
		Metadata: map[string]string{MetadataVolumeID: "v1", MetadataFormat: FormatIfBlank}, Options: []string{"noatime"}}
	if err := h.store().Add(t.Context(), "/v", want); err != nil {
		t.Fatal(err)
	}
	if got, err := h.store().Get(t.Context(), "/v"); err != nil || !reflect.DeepEqual(got, want) {
		t.Fatalf("got %+v, %v", got, err)
	}
}

func TestPathWithoutRecordIsNotFound(t *testing.T) {
	h := newHost(t)
	for range 2 { // without a root, then with one
		if _, err := h.store().Get(t.Context(), "/v"); !errors.Is(err, ErrNotFound) {
			t.Errorf("Get: %v", err)
		}
		if _, err := h.store().Inspect(t.Context(), "/v"); !errors.Is(err, ErrNotFound) {
			t.Errorf("Inspect: %v", err)
		}
		if _, err := h.store().SandboxFor(t.Context(), "/v"); !errors.Is(err, ErrNotFound) {
			t.Errorf("SandboxFor: %v", err)
		}
		if _, err := h.store().Claim(t.Context(), "/v", "s1"); !errors.Is(err, ErrNotFound) {
			t.Errorf("Claim: %v", err)
		}
		for name, err := range map[string]error{
			"Remove":     h.store().Remove(t.Context(), "/v"),
			"Release":    h.store().Release(t.Context(), "/v", "s1"),
			"ReleaseAll": h.store().ReleaseAll(t.Context(), "s1"),
		} {
			if err != nil {
				t.Errorf("%s is not idempotent: %v", name, err)
			}
		}
		h.added(t, "/other", "/dev/sdf")
	}
}

func TestInvalidRecordIsNotAdded(t *testing.T) {
	h := newHost(t)
	tests := map[string]Record{
		"device relative":  {Device: "dev/sdf", FSType: "ext4"},
		"device not UTF-8": {Device: "/dev/\xff", FSType: "ext4"},
		"no fstype":        {Device: "/dev/sdf"},
		"bind":             {Device: "/dev/sdf", FSType: "ext4", Options: []string{"bind"}},
		"too large":        {Device: "/dev/sdf", FSType: "ext4", Options: []string{strings.Repeat("x", maxRecordBytes)}},
	}
	for name, record := range tests {
		if err := h.store().Add(t.Context(), "/v", record); !errors.Is(err, ErrInvalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if names := h.rootNames(t); len(names) != 0 {
		t.Errorf("left over: %q", names) // Kata's tool leaves an empty folder here
	}
}

func TestRemoveTakesTheWholeFolderAndNoOther(t *testing.T) {
	h := newHost(t)
	h.added(t, "/a", "/dev/sdf")
	h.added(t, "/b", "/dev/sdg")
	for _, name := range []string{"0123dead", ".swp"} {
		if err := os.WriteFile(filepath.Join(h.folder("/a"), name), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.MkdirAll(filepath.Join(h.folder("/a"), "sub/sub"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := h.store().Remove(t.Context(), "/a"); err != nil {
		t.Fatal(err)
	}
	if names := h.rootNames(t); len(names) != 1 || names[0] != EncodeKey("/b") {
		t.Fatalf("the root holds %q", names)
	}
}

// spoil turns a good record of /v into a hostile one.
var spoil = map[string]func(t *testing.T, h host){
	"record a symbolic link": func(t *testing.T, h host) {
		other := filepath.Join(h.dir, "elsewhere.json")
		must(t, os.RemoveAll(other))
		must(t, os.Rename(recordFile(h), other))
		must(t, os.Symlink(other, recordFile(h)))
	},
	"record a dangling link": func(t *testing.T, h host) {
		must(t, os.Remove(recordFile(h)))
		must(t, os.Symlink("nowhere", recordFile(h)))
	},
	"record a folder": func(t *testing.T, h host) {
		must(t, os.Remove(recordFile(h)))
		must(t, os.Mkdir(recordFile(h), 0o700))
	},
	"record a FIFO": func(t *testing.T, h host) {
		must(t, os.Remove(recordFile(h)))
		must(t, syscall.Mkfifo(recordFile(h), 0o600))
	},
	"record missing": func(t *testing.T, h host) { must(t, os.Remove(recordFile(h))) },
	"record sparse and huge": func(t *testing.T, h host) {
		must(t, os.Truncate(recordFile(h), 1<<40))
	},
	"record writable by group": func(t *testing.T, h host) { must(t, os.Chmod(recordFile(h), 0o620)) },
	"record writable by all":   func(t *testing.T, h host) { must(t, os.Chmod(recordFile(h), 0o602)) },
	"folder writable by group": func(t *testing.T, h host) { must(t, os.Chmod(h.folder("/v"), 0o770)) },
	"folder a symbolic link": func(t *testing.T, h host) {
		other := filepath.Join(h.dir, "elsewhere")
		must(t, os.RemoveAll(other))
		must(t, os.Rename(h.folder("/v"), other))
		must(t, os.Symlink(other, h.folder("/v")))
	},
	"folder a file": func(t *testing.T, h host) {
		must(t, os.RemoveAll(h.folder("/v")))
		must(t, os.WriteFile(h.folder("/v"), []byte(`{"device":"/dev/sdf","fstype":"ext4"}`), 0o600))
	},
	"record of another user": func(t *testing.T, h host) { chown(t, recordFile(h)) },
	"folder of another user": func(t *testing.T, h host) { chown(t, h.folder("/v")) },
	"record torn": func(t *testing.T, h host) {
		must(t, os.WriteFile(recordFile(h), []byte(hostileRecords["torn"]), 0o600))
	},
	"record empty": func(t *testing.T, h host) { must(t, os.Truncate(recordFile(h), 0)) },
}

func recordFile(h host) string { return filepath.Join(h.folder("/v"), "mountInfo.json") }

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func chown(t *testing.T, path string) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root, to give a file to another user")
	}
	must(t, os.Chown(path, 65534, 65534))
}

func TestHostileRecordIsInvalidAndNeverAbsent(t *testing.T) {
	for name, spoil := range spoil {
		t.Run(name, func(t *testing.T) {
			h := newHost(t)
			h.alive(t, "s1")
			h.added(t, "/v", h.device(t, "disk"))
			spoil(t, h)
			if got, err := h.store().Get(t.Context(), "/v"); !errors.Is(err, ErrInvalid) {
				t.Errorf("Get: %+v, %v", got, err)
			}
			if got, err := h.store().Claim(t.Context(), "/v", "s1"); !errors.Is(err, ErrInvalid) {
				t.Errorf("Claim: %+v, %v", got, err)
			}
			entries, err := h.store().List(t.Context())
			if err != nil || len(entries) != 1 || entries[0].VolumePath != "/v" || !errors.Is(entries[0].Err, ErrInvalid) {
				t.Errorf("List: %+v, %v", entries, err)
			}
			if entry, err := h.store().Inspect(t.Context(), "/v"); err != nil || entry.VolumePath != "/v" || !errors.Is(entry.Err, ErrInvalid) {
				t.Errorf("Inspect: %+v, %v", entry, err)
			}
		})
	}
}

func TestHostileRecordIsReplacedAndRemoved(t *testing.T) {
	for name, spoil := range spoil {
		t.Run(name, func(t *testing.T) {
			h := newHost(t)
			h.added(t, "/v", "/dev/sdf")
			spoil(t, h)
			h.added(t, "/v", "/dev/sdg")
			if got, err := h.store().Get(t.Context(), "/v"); err != nil || got.Device != "/dev/sdg" {
				t.Errorf("after Add: %+v, %v", got, err)
			}
			spoil(t, h)
			must(t, h.store().Remove(t.Context(), "/v"))
			if names := h.rootNames(t); len(names) != 0 {
				t.Errorf("left over: %q", names)
			}
		})
	}
}

func TestRootThatOthersCanWriteIsRefused(t *testing.T) {
	tests := map[string]func(t *testing.T, root string){
		"writable by group": func(t *testing.T, root string) { must(t, os.Chmod(root, 0o770)) },
		"writable by all":   func(t *testing.T, root string) { must(t, os.Chmod(root, 0o1777)) },
		"of another user":   func(t *testing.T, root string) { chown(t, root) },
	}
	for name, spoil := range tests {
		t.Run(name, func(t *testing.T) {
			h := newHost(t)
			h.added(t, "/v", "/dev/sdf")
			spoil(t, h.root())
			if _, err := h.store().Get(t.Context(), "/v"); !errors.Is(err, ErrInvalid) {
				t.Errorf("Get: %v", err)
			}
			if _, err := h.store().Get(t.Context(), "/no-record"); !errors.Is(err, ErrInvalid) {
				t.Errorf("Get of what is not there: %v", err)
			}
			if err := h.store().Add(t.Context(), "/w", h.record("/dev/sdf")); !errors.Is(err, ErrInvalid) {
				t.Errorf("Add: %v", err)
			}
			if _, err := h.store().List(t.Context()); !errors.Is(err, ErrInvalid) {
				t.Errorf("List: %v", err)
			}
		})
	}
}

func TestRecordsThatRustToolsLeaveReadableAreAccepted(t *testing.T) {
	h := newHost(t)
	writeRecord(t, h.folder("/v"), `{"volume-type":"directvol","device":"/dev/sdf","fstype":"ext4"}`)
	must(t, os.Chmod(h.root(), 0o755))
	must(t, os.Chmod(h.folder("/v"), 0o755))
	must(t, os.Chmod(recordFile(h), 0o644))
	if got, err := h.store().Get(t.Context(), "/v"); err != nil || got.Device != "/dev/sdf" {
		t.Fatalf("%+v, %v", got, err)
	}
}

func TestListShowsEveryRecordSortedWithItsClaims(t *testing.T) {
	h := newHost(t)
	disk := h.device(t, "disk")
	h.added(t, "/b", disk)
	h.added(t, "/a", "/dev/sdf")
	h.alive(t, "s1")
	if _, err := h.store().Claim(t.Context(), "/b", "s1"); err != nil {
		t.Fatal(err)
	}
	must(t, os.WriteFile(filepath.Join(h.folder("/b"), "dead"), nil, 0o600))
	must(t, os.WriteFile(filepath.Join(h.folder("/b"), ".mountInfo.json.swp"), nil, 0o600))
	must(t, os.Mkdir(filepath.Join(h.root(), "not base64!"), 0o700))
	must(t, os.Mkdir(filepath.Join(h.root(), ".tmp-123"), 0o700))

	entries, err := h.store().List(t.Context())
	if err != nil || len(entries) != 3 {
		t.Fatalf("%+v, %v", entries, err)
	}
	if e := entries[0]; e.Name != "not base64!" || e.VolumePath != "" || !errors.Is(e.Err, ErrInvalid) {
		t.Errorf("got %+v", e)
	}
	if e := entries[1]; e.VolumePath != "/a" || e.Record.Device != "/dev/sdf" || e.Err != nil || e.Sandboxes != nil || e.Stale != nil {
		t.Errorf("got %+v", e)
	}
	e := entries[2]
	if e.VolumePath != "/b" || !reflect.DeepEqual(e.Sandboxes, []string{"s1"}) || !reflect.DeepEqual(e.Stale, []string{"dead"}) || e.Err != nil {
		t.Errorf("got %+v", e)
	}
	if _, err := os.Stat(filepath.Join(h.root(), ".tmp-123")); err != nil {
		t.Errorf("List changed something: %v", err)
	}
}

func TestListOfNoRootIsEmpty(t *testing.T) {
	if entries, err := newHost(t).store().List(t.Context()); err != nil || len(entries) != 0 {
		t.Fatalf("%v, %v", entries, err)
	}
}

// A link where a path's own record belongs is no alias: aliases lead from other spellings of the path.
func TestLinkFromOneRecordToAnotherIsInvalid(t *testing.T) {
	h := newHost(t)
	h.added(t, "/other", h.device(t, "disk"))
	must(t, os.Symlink(EncodeKey("/other"), h.folder("/v")))
	if got, err := h.store().Get(t.Context(), "/v"); !errors.Is(err, ErrInvalid) {
		t.Errorf("Get: %+v, %v", got, err)
	}
	must(t, h.store().Remove(t.Context(), "/v"))
	if names := h.rootNames(t); len(names) != 1 || names[0] != EncodeKey("/other") {
		t.Errorf("the root holds %q", names)
	}
}
