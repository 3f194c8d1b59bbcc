package pool

import "testing"

// A copy that a machine is to write has its room given to it before. That room is not free any more, and it is no more
// promised than it was.
func TestTheRoomThatADraftHasTakenCountsOnce(t *testing.T) {
	for _, overcommit := range []float64{1, 1.2} {
		p := openOvercommitted(t, mountSmall(t, "tmpfs", 320*mib), overcommit)
		spec := GroupSpec{Name: "group"}
		for _, name := range []string{"a", "b"} {
			spec.SourceIDs = append(spec.SourceIDs, create(t, p, name, 64*mib).ID)
		}
		available := func() int64 {
			t.Helper()
			c, err := p.Capacity(t.Context(), Spec{FSType: "ext4"})
			if err != nil {
				t.Fatal(err)
			}
			return c.AvailableBytes
		}
		before := available()
		var drafts []*Draft
		for i, id := range spec.SourceIDs {
			d, err := p.BeginMember(t.Context(), spec, id)
			if err != nil {
				t.Fatal(err)
			}
			defer d.Discard(t.Context())
			drafts = append(drafts, d)
			if _, err := d.Prepare(); err != nil {
				t.Fatalf("over-commitment %g: of two copies of 64 MiB number %d finds no room beside two volumes of that size "+
					"in 320 MiB: %v", overcommit, i+1, err)
			}
			if taken, want := before-available(), int64(i+1)*64*mib; taken < want || taken > want+mib {
				t.Errorf("over-commitment %g: %d copies of 64 MiB have taken %d MiB of what is available", overcommit, i+1, taken/mib)
			}
		}
		for _, d := range drafts {
			if err := d.Discard(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		if after := available(); after != before {
			t.Errorf("over-commitment %g: %d bytes are available, and %d were before the copies that were given up", overcommit, after, before)
		}
	}
}
