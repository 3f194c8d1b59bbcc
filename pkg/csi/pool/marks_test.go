package pool

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

func hostOnly(t *testing.T, p *Pool, id string) bool {
	t.Helper()
	marked, err := p.HostOnly(id)
	if err != nil {
		t.Fatal(err)
	}
	return marked
}

func TestTheHostsMarkOutlivesTheDriverAndGoesForGood(t *testing.T) {
	dir := t.TempDir()
	p := open(t, dir)
	v := create(t, p, "data", gib)
	if hostOnly(t, p, v.ID) {
		t.Error("a new volume has the mark")
	}
	for range 2 {
		if err := p.MarkHostOnly(t.Context(), v.ID); err != nil {
			t.Fatal(err)
		}
	}
	closePool(t, p)
	p = open(t, dir)
	if !hostOnly(t, p, v.ID) {
		t.Error("the mark is gone")
	}
	for range 2 {
		if err := p.UnmarkHostOnly(t.Context(), v.ID); err != nil {
			t.Fatal(err)
		}
	}
	if hostOnly(t, p, v.ID) {
		t.Error("the mark is there")
	}
	// A call that was cut short before the sync leaves a name for the next one.
	path := filepath.Join(dir, v.ID, hostOnceName)
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if hostOnly(t, p, v.ID) {
		t.Error("a mark on its way out counts")
	}
	if err := p.UnmarkHostOnly(t.Context(), v.ID); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("its name is left: %v", err)
	}
	if err := p.MarkHostOnly(t.Context(), v.ID); err != nil {
		t.Fatal(err)
	}
	if err := p.Delete(t.Context(), v.ID); err != nil {
		t.Errorf("a volume with the mark cannot be deleted: %v", err)
	}
	if err := p.MarkHostOnly(t.Context(), v.ID); !errors.Is(err, unix.ENOENT) {
		t.Errorf("a volume that is gone gets a mark: %v", err)
	}
}

// A copy is trusted as far as its source is when all is copied, and a copy of a copy likewise.
func TestCopiesHaveTheMarkThatTheirSourceHas(t *testing.T) {
	p := open(t, t.TempDir())
	trusted, other := create(t, p, "trusted", 16*mib), create(t, p, "other", 16*mib)
	if err := p.MarkHostOnly(t.Context(), trusted.ID); err != nil {
		t.Fatal(err)
	}
	snapshot := snapshotOf(t, p, "snapshot", trusted)
	foreign := snapshotOf(t, p, "foreign", other)
	if err := p.UnmarkHostOnly(t.Context(), trusted.ID); err != nil {
		t.Fatal(err)
	}
	for source, want := range map[string]bool{snapshot.ID: true, foreign.ID: false, trusted.ID: false} {
		if got := hostOnly(t, p, copyOf(t, p, "of "+source, source, 16*mib).ID); got != want {
			t.Errorf("the copy of %s has the mark: %t", source, got)
		}
	}
}
