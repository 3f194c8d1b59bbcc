package directvolume

import (
	"errors"
	"slices"
	"testing"
)

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
