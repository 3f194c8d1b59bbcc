package filesystem

import (
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func newExt4(t *testing.T) (image string) {
	t.Helper()
	image = newImage(t, 64*mib)
	run(t, "mkfs.ext4", "-q", image)
	return image
}

// countedChecker counts the runs of fsck.
func countedChecker(runs *int) Checker {
	return Checker{Tools: func(ctx context.Context, name string, args ...string) ([]byte, int, error) {
		*runs++
		return hostTools(ctx, name, args...)
	}}
}

func TestFsckRunsOnlyWhenDue(t *testing.T) {
	for _, tc := range []struct {
		name string
		age  func(t *testing.T, image string)
		now  time.Time
		runs int
	}{
		{"new", func(*testing.T, string) {}, time.Now(), 0},
		{"errors seen by the kernel", debugfs("ssv state 3"), time.Now(), 1},
		{"not cleanly unmounted", debugfs("ssv state 0"), time.Now(), 1},
		{"mounted too often", tune2fs("-c", "3", "-C", "3"), time.Now(), 1},
		{"mounted less often than allowed", tune2fs("-c", "3", "-C", "2"), time.Now(), 0},
		{"last check too long ago", tune2fs("-i", "10d"), time.Now().Add(11 * 24 * time.Hour), 1},
		{"last check not so long ago", tune2fs("-i", "10d"), time.Now().Add(9 * 24 * time.Hour), 0},
	} {
		t.Run(tc.name, func(t *testing.T) {
			image := newExt4(t)
			tc.age(t, image)
			var runs int
			checker := countedChecker(&runs)
			checker.Now = func() time.Time { return tc.now }
			if _, err := checker.Check(t.Context(), image, "ext4"); err != nil {
				t.Fatal(err)
			}
			if runs != tc.runs {
				t.Errorf("fsck ran %d times, want %d", runs, tc.runs)
			}
		})
	}
}

func debugfs(request string) func(*testing.T, string) {
	return func(t *testing.T, image string) { run(t, "debugfs", "-w", "-R", request, image) }
}

func tune2fs(args ...string) func(*testing.T, string) {
	return func(t *testing.T, image string) { run(t, "tune2fs", append(args, image)...) }
}

// A copy of the image of a mounted file system is what a power cut leaves.
func TestJournalOfACrashedFileSystemIsReplayed(t *testing.T) {
	image := newExt4(t)
	target := mountFor(t, attach(t, image), "ext4")
	f, err := os.Create(filepath.Join(target, "acknowledged"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteString("data"); err != nil {
		t.Fatal(err)
	}
	if err := f.Sync(); err != nil {
		t.Fatal(err)
	}
	crashed := copyOf(t, image)

	var runs int
	if _, err := countedChecker(&runs).Check(t.Context(), crashed, "ext4"); err != nil || runs != 1 {
		t.Fatalf("fsck ran %d times, %v", runs, err)
	}
	after := mountFor(t, attach(t, crashed), "ext4")
	if data, err := os.ReadFile(filepath.Join(after, "acknowledged")); err != nil || string(data) != "data" {
		t.Errorf("after the check: %q, %v", data, err)
	}
}

func TestRepairIsReported(t *testing.T) {
	image := newExt4(t)
	debugfs("ssv free_blocks_count 17")(t, image)
	debugfs("ssv state 0")(t, image)
	repaired, err := Checker{Tools: hostTools}.Check(t.Context(), image, "ext4")
	if err != nil || repaired == "" {
		t.Errorf("repaired %q, %v", repaired, err)
	}
}

func TestDamageBeyondSafeRepairIsRefused(t *testing.T) {
	image := newExt4(t)
	debugfs("clri <2>")(t, image) // the root folder
	debugfs("ssv state 2")(t, image)
	_, err := Checker{Tools: hostTools}.Check(t.Context(), image, "ext4")
	if !errors.Is(err, ErrDamaged) || !strings.Contains(err.Error(), "run e2fsck") {
		t.Errorf("%v, want ErrDamaged and what to do", err)
	}
}

func TestOtherTypesAreNotChecked(t *testing.T) {
	var runs int
	for _, fstype := range []string{"xfs", "btrfs", "vfat"} {
		if _, err := countedChecker(&runs).Check(t.Context(), "/no/such/device", fstype); err != nil || runs != 0 {
			t.Errorf("%s: %d runs, %v", fstype, runs, err)
		}
	}
}

func copyOf(t *testing.T, image string) string {
	t.Helper()
	in, err := os.Open(image)
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	path := filepath.Join(t.TempDir(), "copy.img")
	out, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	if _, err := io.Copy(out, in); err != nil {
		t.Fatal(err)
	}
	return path
}

// e2fsck refuses a file system that is mounted, whose superblock on the device says that it was never unmounted.
func TestAFileSystemInUseIsNotTakenForADamagedOne(t *testing.T) {
	node := attach(t, newExt4(t))
	mountFor(t, node, "ext4")
	var runs int
	checker := countedChecker(&runs)
	if why, err := checker.extDue(node); err != nil || why == "" {
		t.Fatalf("nothing is due, so that this test shows nothing: %q, %v", why, err)
	}
	if _, err := checker.Check(t.Context(), node, "ext4"); !errors.Is(err, ErrBusy) || runs > 0 {
		t.Errorf("%v after %d runs of e2fsck, want ErrBusy and none", err, runs)
	}
	// It may come into use after the look.
	checker.Tools = func(ctx context.Context, name string, args ...string) ([]byte, int, error) {
		mountFor(t, node, "ext4")
		return hostTools(ctx, name, args...)
	}
	run(t, "umount", node)
	run(t, "debugfs", "-w", "-R", "ssv state 0", node)
	if _, err := checker.Check(t.Context(), node, "ext4"); !errors.Is(err, ErrBusy) {
		t.Errorf("mounted meanwhile: %v, want ErrBusy", err)
	}
}
