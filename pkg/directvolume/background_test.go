package directvolume

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// backgroundTimeout is far more than the longest that something takes beside a call.
const backgroundTimeout = 30 * time.Second

// awaitRootNames waits until the record root holds just those names.
func (h host) awaitRootNames(t *testing.T, want ...string) {
	t.Helper()
	var names []string
	for end := time.Now().Add(backgroundTimeout); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		if names = h.rootNames(t); slices.Equal(names, want) {
			return
		}
	}
	t.Fatalf("the root holds %q, and should hold %q", names, want)
}

// spareName waits for the draft that Add has made beside, and returns its name.
func (h host) spareName(t *testing.T) string {
	t.Helper()
	for end := time.Now().Add(backgroundTimeout); time.Now().Before(end); time.Sleep(time.Millisecond) {
		for _, name := range h.rootNames(t) {
			if data, err := os.ReadFile(filepath.Join(h.root(), name, recordName)); err == nil && len(data) == 0 {
				return name
			}
		}
	}
	t.Fatal("no draft was made beside")
	return ""
}

// awaitSpare waits until the store has a draft ready, and returns its name.
func awaitSpare(t *testing.T, store *Store) string {
	t.Helper()
	b := store.background
	for end := time.Now().Add(backgroundTimeout); time.Now().Before(end); time.Sleep(time.Millisecond) {
		b.mu.Lock()
		d := b.spare
		b.mu.Unlock()
		if d != nil {
			return d.name
		}
	}
	t.Fatal("no draft was made beside")
	return ""
}

func inode(t *testing.T, path string) uint64 {
	t.Helper()
	var stat unix.Stat_t
	must(t, unix.Stat(path, &stat))
	return stat.Ino
}

func TestADraftThatWasMadeBesideBecomesTheNextRecord(t *testing.T) {
	h := newHost(t)
	store := h.storeWithBackground()
	store.background.spareLife = time.Hour
	t.Cleanup(store.Close)
	must(t, store.Add(t.Context(), "/a", h.record("/dev/sdf")))
	made := inode(t, filepath.Join(h.root(), awaitSpare(t, store)))
	must(t, store.Add(t.Context(), "/b", h.record("/dev/sdg")))
	if got := inode(t, h.folder("/b")); got != made {
		t.Errorf("the record's folder is inode %d, not the draft's %d", got, made)
	}
	got, err := store.Get(t.Context(), "/b")
	if err != nil || got.Device != "/dev/sdg" {
		t.Errorf("%+v, %v", got, err)
	}
	for _, path := range []string{h.folder("/b"), filepath.Join(h.folder("/b"), recordName)} {
		if info, err := os.Stat(path); err != nil || info.Mode().Perm()&0o077 != 0 {
			t.Errorf("%s has mode %v, %v", path, info.Mode(), err)
		}
	}
}

func TestADraftThatNobodyNeedsGoes(t *testing.T) {
	h := newHost(t)
	store := h.storeWithBackground()
	t.Cleanup(store.Close)
	must(t, store.Add(t.Context(), "/a", h.record("/dev/sdf")))
	awaitSpare(t, store)
	h.awaitRootNames(t, EncodeKey("/a"))
}

func TestWhatIsDoneBesideEndsWithTheStore(t *testing.T) {
	h := newHost(t)
	store := h.storeWithBackground()
	for range 3 {
		for _, path := range []string{"/a", "/b", "/c"} {
			must(t, store.Add(t.Context(), path, h.record("/dev/sdf")))
		}
		for _, path := range []string{"/a", "/b", "/c"} {
			must(t, store.Remove(t.Context(), path))
			if _, err := store.Get(t.Context(), path); !errors.Is(err, ErrNotFound) {
				t.Errorf("the record is removed, and Get says %v", err)
			}
		}
	}
	must(t, store.Add(t.Context(), "/a", h.record("/dev/sdf")))
	store.Close()
	if names := h.rootNames(t); !slices.Equal(names, []string{EncodeKey("/a")}) {
		t.Errorf("left over: %q", names)
	}
	// A closed one works on, and leaves nothing.
	must(t, store.Add(t.Context(), "/b", h.record("/dev/sdf")))
	must(t, store.Remove(t.Context(), "/a"))
	if names := h.rootNames(t); !slices.Equal(names, []string{EncodeKey("/b")}) {
		t.Errorf("left over: %q", names)
	}
}

// Other processes of the host sweep too, when they write their first record.
func TestADraftOfALivingProcessIsNotSwept(t *testing.T) {
	h := newHost(t)
	writer := startChild(t, "add-and-wait", h.dir, "/v", "/dev/sdf")
	if line := writer.line(); line != "added" {
		t.Fatal(line)
	}
	draft := h.spareName(t)
	h.added(t, "/other", "/dev/sdg")
	if names := h.rootNames(t); !slices.Contains(names, draft) {
		t.Errorf("the draft is swept: %q", names)
	}
	writer.kill()
	_, err := h.store().RemoveEarlierBoots(t.Context()) // as a driver does when it starts
	must(t, err)
	for _, name := range h.rootNames(t) {
		if strings.HasPrefix(name, tempPrefix) {
			t.Errorf("%s is left of the process that was killed", name)
		}
	}
}

func TestADraftThatIsNoLongerThereIsDoneWithout(t *testing.T) {
	for name, spoil := range map[string]func(h host, draft string) error{
		"removed":    func(h host, draft string) error { return os.RemoveAll(filepath.Join(h.root(), draft)) },
		"a new root": func(h host, draft string) error { return os.Rename(h.root(), h.root()+".old") },
	} {
		t.Run(name, func(t *testing.T) {
			h := newHost(t)
			store := h.storeWithBackground()
			store.background.spareLife = time.Hour
			t.Cleanup(store.Close)
			must(t, store.Add(t.Context(), "/a", h.record("/dev/sdf")))
			must(t, spoil(h, awaitSpare(t, store)))
			must(t, store.Add(t.Context(), "/b", h.record("/dev/sdg")))
			if got, err := h.store().Get(t.Context(), "/b"); err != nil || got.Device != "/dev/sdg" {
				t.Errorf("%+v, %v", got, err)
			}
		})
	}
}
