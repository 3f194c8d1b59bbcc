package pool

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
)

// A deletion that could not remove a folder leaves it under the very name that the next one wants.
func TestAPoolOpensThoughASnapshotWithoutAGroupCannotBeRemoved(t *testing.T) {
	dir := t.TempDir()
	p := open(t, dir)
	v := create(t, p, "source", 16*mib)
	g := groupOf(t, p, GroupSpec{Name: "group", SourceIDs: []string{v.ID}})
	closePool(t, p)
	member := g.Members[0].ID
	inTheWay := filepath.Join(dir, deletedPrefix+member, "notes.txt")
	write(t, inTheWay, "mine")
	if err := os.RemoveAll(filepath.Join(dir, g.ID)); err != nil {
		t.Fatal(err)
	}

	p = open(t, dir)
	if _, err := p.GetSnapshot(t.Context(), member); !errors.Is(err, ErrDamaged) {
		t.Errorf("the snapshot without a group: %v", err)
	}
	booked := p.space.booked()
	if err := p.DeleteSnapshot(t.Context(), member); err == nil {
		t.Error("it was deleted over what is in the way")
	}
	if err := os.Remove(inTheWay); err != nil {
		t.Fatal(err)
	}
	if err := p.DeleteSnapshot(t.Context(), member); err != nil {
		t.Fatal(err)
	}
	if now := p.space.booked(); now >= booked {
		t.Errorf("%d bytes are booked, and %d were with the snapshot", now, booked)
	}
}
