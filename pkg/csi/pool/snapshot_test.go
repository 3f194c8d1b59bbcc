package pool

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// onEachFileSystem runs a test in a pool on a real file system whose files can share blocks, and in one on one whose
// files cannot.
func onEachFileSystem(t *testing.T, test func(t *testing.T, dir string)) {
	for _, fsType := range []string{"xfs", "ext4"} {
		t.Run(fsType, func(t *testing.T) {
			dir := filepath.Join(mountSmall(t, fsType, 512*mib), "pool")
			if p := open(t, dir); p.Reflinks() != (fsType == "xfs") {
				t.Fatalf("%s shares blocks: %t", fsType, p.Reflinks())
			} else {
				closePool(t, p)
			}
			test(t, dir)
		})
	}
}

// bringIn brings the source's content into a draft as the driver does.
func bringIn(t *testing.T, d *Draft) {
	t.Helper()
	err := d.LockSource()
	if err == nil && d.pool.Reflinks() {
		err = d.Reflink()
	} else if err == nil {
		err = d.Copy(t.Context())
	}
	if err != nil {
		t.Fatal(err)
	}
}

func snapshotOf(t *testing.T, p *Pool, name string, v Volume) Snapshot {
	t.Helper()
	d, err := p.BeginSnapshot(t.Context(), SnapshotSpec{Name: name, SourceID: v.ID})
	if err != nil {
		t.Fatal(err)
	}
	defer d.Discard(t.Context())
	bringIn(t, d)
	d.Cut(time.Now())
	s, err := d.FinishSnapshot()
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func copyOf(t *testing.T, p *Pool, name, source string, sizeBytes int64) Volume {
	t.Helper()
	spec := ext4Spec(name, sizeBytes)
	spec.Source = source
	d, err := p.BeginVolume(t.Context(), spec)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Discard(t.Context())
	bringIn(t, d)
	v, err := d.FinishVolume()
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func TestASnapshotKeepsWhatItsVolumeHeldWhateverBecomesOfEither(t *testing.T) {
	onEachFileSystem(t, func(t *testing.T, dir string) {
		p := open(t, dir)
		v := create(t, p, "source", 64*mib)
		writeImage(t, v, "before")
		s := snapshotOf(t, p, "snapshot", v)
		writeImage(t, v, "after!")
		larger := copyOf(t, p, "restored", s.ID, 96*mib)
		clone := copyOf(t, p, "clone", v.ID, 0)
		if err := p.Delete(t.Context(), v.ID); err != nil {
			t.Fatal(err)
		}
		promised := p.space.booked()
		closePool(t, p)

		p = open(t, dir)
		if got := p.space.booked(); got != promised {
			t.Errorf("after a restart %d bytes are promised, %d before", got, promised)
		}
		found, err := p.GetSnapshot(t.Context(), s.ID)
		if err != nil || found != s || !found.Ready || found.SizeBytes != 64*mib || found.SourceID != v.ID {
			t.Errorf("after a restart the snapshot is %+v, %v; was %+v", found, err, s)
		}
		if err := p.DeleteSnapshot(t.Context(), s.ID); err != nil {
			t.Fatal(err)
		}
		for _, c := range []struct {
			Volume
			holds string
			size  int64
		}{{larger, "before", 96 * mib}, {clone, "after!", 64 * mib}} {
			got, err := p.Get(t.Context(), c.ID)
			if err != nil || got.SizeBytes != c.size || got.Source != c.Source || got.Source == "" {
				t.Errorf("%+v, %v", got, err)
			}
			if text := readImage(t, c.Volume, 6); text != c.holds {
				t.Errorf("%s holds %q, not %q", c.Name, text, c.holds)
			}
			if p.allocatedBytesOf(c.ID) > 8*mib {
				t.Errorf("%s has no holes: %d bytes", c.Name, p.allocatedBytesOf(c.ID))
			}
		}
		if names := entries(t, dir); len(names) != 2 {
			t.Errorf("the pool has %v", names)
		}
	})
}

func TestASnapshotOfTheSameNameIsTheSameOrRefused(t *testing.T) {
	p := open(t, t.TempDir())
	one, other := create(t, p, "one", 16*mib), create(t, p, "other", 16*mib)
	s := snapshotOf(t, p, "snapshot", one)
	again, found, err := p.FindSnapshot(SnapshotSpec{Name: "snapshot", SourceID: one.ID})
	if err != nil || !found || again != s {
		t.Errorf("%+v, %t, %v", again, found, err)
	}
	if _, _, err := p.FindSnapshot(SnapshotSpec{Name: "snapshot", SourceID: other.ID}); !errors.Is(err, ErrIncompatible) {
		t.Errorf("another volume's: %v", err)
	}
	if _, _, err := p.FindSnapshot(SnapshotSpec{Name: strings.Repeat("n", 129), SourceID: one.ID}); !errors.Is(err, ErrInvalidSpec) {
		t.Errorf("long name: %v", err)
	}
	if _, err := p.BeginSnapshot(t.Context(), SnapshotSpec{Name: "n", SourceID: p.ID("none")}); !errors.Is(err, ErrNotFound) {
		t.Errorf("no such volume: %v", err)
	}
}

func TestACopyIsAsItsSourceAndNeverSmaller(t *testing.T) {
	p := open(t, t.TempDir())
	s := snapshotOf(t, p, "snapshot", create(t, p, "source", 64*mib))
	for name, c := range map[string]struct {
		change func(*Spec)
		want   error
	}{
		"smaller":             {func(s *Spec) { s.Size.RequiredBytes = 32 * mib }, ErrOutOfRange},
		"limit":               {func(s *Spec) { s.Size = SizeRange{LimitBytes: 63 * mib} }, ErrOutOfRange},
		"another file system": {func(s *Spec) { s.FSType = "xfs" }, ErrInvalidSpec},
		"no such snapshot":    {func(s *Spec) { s.Source = p.SnapshotID("none") }, ErrSnapshotNotFound},
		"no such volume":      {func(s *Spec) { s.Source = p.ID("none") }, ErrNotFound},
		"bad id":              {func(s *Spec) { s.Source = "../x" }, ErrInvalidID},
		"too large":           {func(s *Spec) { s.Size.RequiredBytes = 15 * tib }, ErrNoSpace},
	} {
		spec := Spec{Name: "copy", FSType: "ext4", Source: s.ID}
		c.change(&spec)
		if _, err := p.BeginVolume(t.Context(), spec); !errors.Is(err, c.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if got := len(entries(t, p.Dir())); got != 2 {
		t.Errorf("%d folders are left", got)
	}
	v := copyOf(t, p, "copy", s.ID, 0)
	if _, found, err := p.FindVolume(Spec{Name: "copy", FSType: "ext4", Source: s.ID}); !found || err != nil {
		t.Errorf("again: %t, %v", found, err)
	}
	for _, source := range []string{"", v.ID} {
		if _, _, err := p.FindVolume(Spec{Name: "copy", FSType: "ext4", Source: source}); !errors.Is(err, ErrIncompatible) {
			t.Errorf("from %q: %v", source, err)
		}
	}
}

func TestADraftThatIsGivenUpLeavesNothing(t *testing.T) {
	onEachFileSystem(t, func(t *testing.T, dir string) {
		p := open(t, dir)
		v := create(t, p, "source", 64*mib)
		writeImage(t, v, "data")
		promised := p.space.booked()
		d, err := p.BeginSnapshot(t.Context(), SnapshotSpec{Name: "snapshot", SourceID: v.ID})
		if err != nil {
			t.Fatal(err)
		}
		bringIn(t, d)
		path, err := d.Prepare()
		if err != nil || !exists(t, path) {
			t.Fatal(path, err)
		}
		d.Cut(time.Now())
		if s, err := p.GetSnapshot(t.Context(), p.SnapshotID("snapshot")); err != nil || s.Ready {
			t.Errorf("%+v, %v", s, err)
		}
		if _, err := p.BeginVolume(t.Context(), Spec{Name: "v", FSType: "ext4", Source: p.SnapshotID("snapshot")}); !errors.Is(err, ErrNotReady) {
			t.Errorf("from a snapshot that is not ready: %v", err)
		}
		for range 2 {
			if err := d.Discard(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := p.GetSnapshot(t.Context(), p.SnapshotID("snapshot")); !errors.Is(err, ErrSnapshotNotFound) {
			t.Errorf("a snapshot that was given up: %v", err)
		}
		if got := p.space.booked(); got != promised {
			t.Errorf("%d bytes are promised, were %d", got, promised)
		}
		if names := entries(t, dir); !slices.Equal(names, []string{v.ID}) {
			t.Errorf("the pool has %v", names)
		}
	})
}

// What somebody else has written into a prepared image is kept, and the rest is given back.
func TestAPreparedImageHasRoomAndGivesBackWhatWasNotWritten(t *testing.T) {
	onEachFileSystem(t, func(t *testing.T, dir string) {
		p := open(t, dir)
		v := create(t, p, "source", 64*mib)
		d, err := p.BeginSnapshot(t.Context(), SnapshotSpec{Name: "snapshot", SourceID: v.ID})
		if err != nil {
			t.Fatal(err)
		}
		defer d.Discard(t.Context())
		path, err := d.Prepare()
		if err != nil {
			t.Fatal(err)
		}
		if got := diskBytes(d.image); got < 64*mib {
			t.Errorf("%d bytes are allocated", got)
		}
		f, err := os.OpenFile(path, os.O_WRONLY, 0)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := f.WriteAt([]byte("in the middle"), 32*mib); err != nil {
			t.Fatal(err)
		}
		f.Close()
		d.Cut(time.Now())
		s, err := d.FinishSnapshot()
		if err != nil {
			t.Fatal(err)
		}
		if e, _ := p.snapshotEntry(s.ID); e.promised.costBytes > mib {
			t.Errorf("the snapshot takes %d bytes", e.promised.costBytes)
		}
		restored := copyOf(t, p, "restored", s.ID, 0)
		content, err := os.ReadFile(restored.ImagePath)
		if err != nil || string(content[32*mib:32*mib+13]) != "in the middle" {
			t.Errorf("the middle is lost: %v", err)
		}
	})
}

func TestACopyEndsWithItsContext(t *testing.T) {
	p := open(t, t.TempDir())
	v := create(t, p, "source", 16*mib)
	writeImage(t, v, "data")
	d, err := p.BeginSnapshot(t.Context(), SnapshotSpec{Name: "snapshot", SourceID: v.ID})
	if err != nil {
		t.Fatal(err)
	}
	defer d.Discard(t.Context())
	ended, end := context.WithCancel(t.Context())
	end()
	if err := d.Copy(ended); !errors.Is(err, context.Canceled) {
		t.Errorf("a copy that nobody wants any more: %v", err)
	}
}

func TestASourceThatAMachineHasOpenIsNotCopied(t *testing.T) {
	p := open(t, t.TempDir())
	v := create(t, p, "source", 16*mib)
	machine := startMachine(t, v.ImagePath)
	d, err := p.BeginSnapshot(t.Context(), SnapshotSpec{Name: "snapshot", SourceID: v.ID})
	if err != nil {
		t.Fatal(err)
	}
	defer d.Discard(t.Context())
	if err := d.LockSource(); !errors.Is(err, ErrImageInUse) {
		t.Errorf("locked under a machine: %v", err)
	}
	machine()
	if err := d.LockSource(); err != nil {
		t.Errorf("after the machine's end: %v", err)
	}
}

func TestAGroupIsMadeAndDeletedAsAWhole(t *testing.T) {
	dir := t.TempDir()
	p := open(t, dir)
	one, other := create(t, p, "one", 16*mib), create(t, p, "other", 16*mib)
	writeImage(t, one, "1")
	spec := GroupSpec{Name: "group", SourceIDs: []string{one.ID, other.ID}}
	promised := p.space.booked()
	g := groupOf(t, p, spec)
	if len(g.Members) != 2 || g.Created.IsZero() {
		t.Fatalf("%+v", g)
	}
	closePool(t, p)

	p = open(t, dir)
	again, found, err := p.FindGroup(GroupSpec{Name: "group", SourceIDs: []string{other.ID, one.ID}})
	if err != nil || !found || len(again.Members) != 2 || again.Members[0] != g.Members[0] || !again.Created.Equal(g.Created) {
		t.Errorf("after a restart: %+v, %t, %v", again, found, err)
	}
	if _, _, err := p.FindGroup(GroupSpec{Name: "group", SourceIDs: []string{one.ID}}); !errors.Is(err, ErrIncompatible) {
		t.Errorf("of fewer volumes: %v", err)
	}
	member := again.Members[0]
	if err := p.DeleteSnapshot(t.Context(), member.ID); !errors.Is(err, ErrGroupMember) || member.GroupID != g.ID {
		t.Errorf("one of a group: %v", err)
	}
	for range 2 {
		if err := p.DeleteGroup(t.Context(), g.ID); err != nil {
			t.Fatal(err)
		}
	}
	if got := p.space.booked(); got != promised {
		t.Errorf("%d bytes are promised, were %d", got, promised)
	}
	if names := entries(t, dir); len(names) != 2 {
		t.Errorf("the pool has %v", names)
	}
}

func groupOf(t *testing.T, p *Pool, spec GroupSpec) Group {
	t.Helper()
	var drafts []*Draft
	now := time.Now()
	for _, id := range spec.SourceIDs {
		d, err := p.BeginMember(t.Context(), spec, id)
		if err != nil {
			t.Fatal(err)
		}
		defer d.Discard(t.Context())
		bringIn(t, d)
		d.Cut(now)
		drafts = append(drafts, d)
	}
	g, err := p.FinishGroup(spec, drafts)
	if err != nil {
		t.Fatal(err)
	}
	return g
}

// What a crash leaves of copies is removed; what was finished, or is merely damaged, is not.
func TestScanRemovesUnfinishedCopiesOnly(t *testing.T) {
	dir := t.TempDir()
	p := open(t, dir)
	v := create(t, p, "source", 16*mib)
	writeImage(t, v, "data")
	kept, broken := snapshotOf(t, p, "kept", v), snapshotOf(t, p, "broken", v)
	g := groupOf(t, p, GroupSpec{Name: "group", SourceIDs: []string{v.ID}})
	halfDeleted := groupOf(t, p, GroupSpec{Name: "half deleted", SourceIDs: []string{v.ID}})
	closePool(t, p)

	data := strings.Repeat("half of a copy", 1000)
	for _, id := range []string{p.SnapshotID("a"), p.ID("b"), p.GroupID("c")} {
		write(t, filepath.Join(dir, draftPrefix+id, imageName), data)
	}
	write(t, filepath.Join(dir, draftPrefix+p.SnapshotID("d"), snapshotMetaName), "{}\n")
	write(t, filepath.Join(dir, deletedPrefix+p.SnapshotID("e"), imageName), data)
	write(t, filepath.Join(dir, broken.ID, snapshotMetaName), "{")
	if err := os.RemoveAll(filepath.Join(dir, halfDeleted.ID)); err != nil {
		t.Fatal(err)
	}

	p = open(t, dir)
	want := []string{v.ID, kept.ID, broken.ID, g.ID, g.Members[0].ID}
	slices.Sort(want)
	if names := entries(t, dir); !slices.Equal(names, want) {
		t.Errorf("the pool has %v, not %v", names, want)
	}
	if _, err := p.GetSnapshot(t.Context(), broken.ID); !errors.Is(err, ErrDamaged) {
		t.Errorf("the broken one: %v", err)
	}
	if _, _, err := p.FindSnapshot(SnapshotSpec{Name: "broken", SourceID: v.ID}); !errors.Is(err, ErrDamaged) {
		t.Errorf("the broken one, made again: %v", err)
	}
	if err := p.DeleteSnapshot(t.Context(), broken.ID); err != nil {
		t.Errorf("the broken one, deleted: %v", err)
	}
	if s, more := p.SnapshotPage(t.Context(), v.ID, "", 0); len(s) != 2 || more {
		t.Errorf("listed %v", s)
	}
}

// All volumes can be written full and all snapshots keep what they hold, however many blocks they share.
func TestSnapshotsAreAccountedFor(t *testing.T) {
	onEachFileSystem(t, func(t *testing.T, dir string) {
		p := open(t, dir)
		v := create(t, p, "source", 64*mib)
		writeImage(t, v, strings.Repeat("x", int(32*mib)))
		var snapshots []Snapshot
		for i := 0; ; i++ {
			writeImage(t, v, fmt.Sprintf("version %d", i))
			d, err := p.BeginSnapshot(t.Context(), SnapshotSpec{Name: fmt.Sprint(i), SourceID: v.ID})
			if errors.Is(err, ErrNoSpace) {
				break
			}
			if err != nil {
				t.Fatal(err)
			}
			bringIn(t, d)
			d.Cut(time.Now())
			s, err := d.FinishSnapshot()
			if err != nil {
				t.Fatal(err)
			}
			snapshots = append(snapshots, s)
			if err := d.Discard(t.Context()); err != nil || i > 100 {
				t.Fatal(i, err)
			}
		}
		if len(snapshots) < 5 {
			t.Errorf("only %d snapshots of 32 MiB fit", len(snapshots))
		}
		writeImage(t, v, strings.Repeat("y", int(64*mib))) // ENOSPC fails the test
		for i, s := range snapshots {
			image, err := p.openImage(s.ID)
			if err != nil {
				t.Fatal(err)
			}
			text := make([]byte, 9)
			_, err = image.ReadAt(text, 0)
			image.Close()
			if want := fmt.Sprintf("version %d", i)[:9]; err != nil || string(text) != want {
				t.Errorf("snapshot %d holds %q, %v", i, text, err)
			}
		}
		c, err := p.Capacity(t.Context(), Spec{FSType: "ext4"})
		if err != nil || c.AvailableBytes > 40*mib {
			t.Errorf("a full pool has room for %+v, %v", c, err)
		}
	})
}
