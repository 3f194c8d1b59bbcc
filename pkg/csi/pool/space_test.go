package pool

import (
	"bytes"
	"errors"
	"fmt"
	"math"
	"os"
	"testing"
)

// The promise of the pool, kept on real file systems: make volumes until no more fit, then write all of them full.
func TestEveryVolumeOfAFullPoolCanBeWrittenFull(t *testing.T) {
	for _, fsType := range []string{"tmpfs", "ext4", "xfs"} {
		t.Run(fsType, func(t *testing.T) {
			p := open(t, mountSmall(t, fsType, 400*mib))
			capacity, err := p.Capacity(t.Context(), Spec{FSType: "ext4"})
			if err != nil {
				t.Fatal(err)
			}
			var made []Volume
			for i := 0; ; i++ {
				v, err := p.Create(t.Context(), ext4Spec(fmt.Sprint(i), 24*mib))
				if errors.Is(err, ErrNoSpace) {
					break
				}
				if err != nil {
					t.Fatal(err)
				}
				made = append(made, v)
			}
			if most := capacity.AvailableBytes / (24 * mib); int64(len(made)) < most-1 || int64(len(made)) > most {
				t.Errorf("%d volumes fit; the capacity of %d bytes promised %d", len(made), capacity.AvailableBytes, most)
			}
			for _, v := range made {
				fill(t, v)
			}
			if _, err := p.Create(t.Context(), ext4Spec("one more", 24*mib)); !errors.Is(err, ErrNoSpace) {
				t.Errorf("create in a pool written full: %v, want %v", err, ErrNoSpace)
			}
			if err := p.Delete(t.Context(), made[0].ID); err != nil {
				t.Fatal(err)
			}
			create(t, p, "one more", 24*mib)
		})
	}
}

func fill(t *testing.T, v Volume) {
	t.Helper()
	f, err := os.OpenFile(v.ImagePath, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	block := bytes.Repeat([]byte{0xa5}, int(mib))
	for range v.SizeBytes / mib {
		if _, err := f.Write(block); err != nil {
			t.Fatalf("a promised volume cannot be written full: %v", err)
		}
	}
	if err := f.Sync(); err != nil {
		t.Fatalf("a promised volume cannot be written full: %v", err)
	}
}

func TestWhatIsWrittenIsNotCountedTwice(t *testing.T) {
	p := open(t, mountSmall(t, "tmpfs", 100*mib))
	v := create(t, p, "first", 60*mib)
	before, err := p.Capacity(t.Context(), Spec{FSType: "ext4"})
	if err != nil {
		t.Fatal(err)
	}
	fill(t, v)
	after, err := p.Capacity(t.Context(), Spec{FSType: "ext4"})
	if err != nil {
		t.Fatal(err)
	}
	if before.AvailableBytes == 0 || before.AvailableBytes-after.AvailableBytes > mib {
		t.Errorf("writing into a volume took the capacity from %d to %d bytes", before.AvailableBytes, after.AvailableBytes)
	}
	create(t, p, "second", 30*mib) // only fits if the first one's blocks count for its promise
}

func TestGrowthIsPromisedToo(t *testing.T) {
	p := open(t, mountSmall(t, "tmpfs", 100*mib))
	v := create(t, p, "pvc", 20*mib)
	if _, err := p.Grow(t.Context(), v.ID, SizeRange{RequiredBytes: 90 * mib}); err != nil {
		t.Fatal(err)
	}
	if _, err := p.Create(t.Context(), ext4Spec("other", 20*mib)); !errors.Is(err, ErrNoSpace) {
		t.Errorf("create beside a grown volume: %v, want %v", err, ErrNoSpace)
	}
	if _, err := p.Grow(t.Context(), v.ID, SizeRange{RequiredBytes: 110 * mib}); !errors.Is(err, ErrNoSpace) {
		t.Errorf("grow beyond the pool: %v, want %v", err, ErrNoSpace)
	}
}

func TestCapacityNamesWhatAFileSystemNeeds(t *testing.T) {
	p := open(t, mountSmall(t, "tmpfs", 100*mib))
	ext4, err := p.Capacity(t.Context(), Spec{FSType: "ext4"})
	if err != nil || ext4.AvailableBytes < 95*mib || ext4.MaximumVolumeBytes != ext4.AvailableBytes || ext4.MinimumVolumeBytes != 16*mib {
		t.Errorf("ext4: %+v, %v", ext4, err)
	}
	create(t, p, "the largest", ext4.MaximumVolumeBytes)
	xfs, err := p.Capacity(t.Context(), Spec{FSType: "xfs"})
	if err != nil || xfs.AvailableBytes != 0 || xfs.MaximumVolumeBytes != 0 {
		t.Errorf("xfs in too small a pool: %+v, %v; want nothing", xfs, err)
	}
	if _, err := p.Capacity(t.Context(), Spec{FSType: "vfat"}); !errors.Is(err, ErrInvalidSpec) {
		t.Errorf("vfat: %v, want %v", err, ErrInvalidSpec)
	}
}

func TestLargestSizeIsTheInverseOfTheCost(t *testing.T) {
	for _, free := range []int64{-gib, 0, 64 * kib, 16 * mib, gib, gib + 12345, 500 * tib, math.MaxInt64 / 2} {
		size := largestSize(free)
		if size > 0 && costBytes(size) > free {
			t.Errorf("%d bytes free hold a volume of %d, which costs %d", free, size, costBytes(size))
		}
		if costBytes(size+2*alignBytes) <= free {
			t.Errorf("%d bytes free hold more than %d", free, size)
		}
	}
}

// Disks do not fail on request, so the folder is closed under the committer instead.
func TestAChangeThatCannotBeMadeDurableFails(t *testing.T) {
	dir, err := os.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	c := newCommitter(dir)
	defer c.close()
	if err := c.begin().commit(); err != nil {
		t.Fatal(err)
	}
	if err := dir.Close(); err != nil {
		t.Fatal(err)
	}
	if err := c.begin().commit(); !errors.Is(err, os.ErrClosed) {
		t.Errorf("commit to a folder that cannot be synced: %v", err)
	}
}

func TestAnAbandonedChangeHoldsNobodyUp(t *testing.T) {
	dir, err := os.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer dir.Close()
	c := newCommitter(dir)
	defer c.close()
	slow := c.begin()
	done := make(chan error)
	go func() { done <- c.begin().commit() }()
	select {
	case err := <-done:
		t.Fatalf("a commit did not wait for a change that had begun: %v", err)
	default:
	}
	slow.abandon()
	if err := <-done; err != nil {
		t.Error(err)
	}
}
