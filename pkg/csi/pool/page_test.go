package pool

import (
	"fmt"
	"path/filepath"
	"slices"
	"testing"
)

// Whatever is made or deleted between two pages, the volumes that were there all the time are seen exactly once.
func TestPagesSurviveWhatIsMadeAndDeletedBetweenThem(t *testing.T) {
	p := open(t, t.TempDir())
	var staying []string
	for i := range 20 {
		staying = append(staying, create(t, p, fmt.Sprint("stays-", i), 16*mib).ID)
	}
	slices.Sort(staying)

	for most := 1; most <= 21; most++ {
		passing := create(t, p, fmt.Sprint("goes-", most), 16*mib)
		var seen []string
		after := ""
		for n := 0; ; n++ {
			page, more := p.Page(t.Context(), after, most)
			for _, v := range page {
				seen = append(seen, v.ID)
			}
			if len(page) > most || more && len(page) < most {
				t.Fatalf("a page of at most %d has %d, and more: %t", most, len(page), more)
			}
			if !more {
				break
			}
			after = page[len(page)-1].ID
			if after == passing.ID { // the id that the next page begins after is gone
				if err := p.Delete(t.Context(), passing.ID); err != nil {
					t.Fatal(err)
				}
			}
			create(t, p, fmt.Sprintf("new-%d-%d", most, n), 16*mib)
		}
		if !slices.IsSorted(seen) || len(slices.Compact(slices.Clone(seen))) != len(seen) {
			t.Errorf("pages of %d are not in order, or have a volume twice: %v", most, seen)
		}
		for _, id := range staying {
			if !slices.Contains(seen, id) {
				t.Errorf("pages of %d leave out %s, which was there all the time", most, id)
			}
		}
		for _, v := range p.List(t.Context()) {
			if !slices.Contains(staying, v.ID) {
				if err := p.Delete(t.Context(), v.ID); err != nil {
					t.Fatal(err)
				}
			}
		}
	}
}

func TestDamagedVolumesAreListed(t *testing.T) {
	dir := t.TempDir()
	p := open(t, dir)
	whole, broken := create(t, p, "whole", 16*mib), create(t, p, "broken", gib)
	closePool(t, p)
	writeImage(t, broken, "somebody's data")
	write(t, filepath.Join(dir, broken.ID, metaName), "{")

	page, more := open(t, dir).Page(t.Context(), "", 0)
	if len(page) != 2 || more {
		t.Fatalf("%v, more: %t", page, more)
	}
	for _, v := range page {
		if size := map[string]int64{whole.ID: 16 * mib}[v.ID]; v.SizeBytes != size {
			t.Errorf("%s is listed with %d bytes, not %d", v.ID, v.SizeBytes, size)
		}
	}
}
