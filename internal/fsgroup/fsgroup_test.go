package fsgroup

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

const gid = 4321

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func stat(t *testing.T, path string) unix.Stat_t {
	t.Helper()
	var st unix.Stat_t
	must(t, unix.Lstat(path, &st))
	return st
}

func apply(t *testing.T, path string) {
	t.Helper()
	root, err := os.Open(path)
	must(t, err)
	defer root.Close()
	must(t, Apply(t.Context(), root, gid))
	matches, err := Matches(root, gid)
	must(t, err)
	if !matches {
		t.Error("the root folder does not match what was done to it")
	}
}

func TestEveryKindOfFileIsTheGroupsAndNothingOutside(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Fatal("giving files to a group needs root")
	}
	dir, outside := t.TempDir(), filepath.Join(t.TempDir(), "shadow")
	must(t, os.WriteFile(outside, nil, 0o600))
	must(t, os.MkdirAll(filepath.Join(dir, "a", "b"), 0o700))
	must(t, os.WriteFile(filepath.Join(dir, "a", "file"), nil, 0o400))
	must(t, os.WriteFile(filepath.Join(dir, "setuid"), nil, 0o700))
	must(t, os.Chmod(filepath.Join(dir, "setuid"), 0o700|os.ModeSetuid))
	must(t, os.Symlink(outside, filepath.Join(dir, "a", "link")))
	must(t, os.Symlink(filepath.Dir(outside), filepath.Join(dir, "folder-link")))
	must(t, unix.Mkfifo(filepath.Join(dir, "fifo"), 0o600))

	apply(t, dir)
	for path, mode := range map[string]uint32{
		"": 0o2770, "a": 0o2770, "a/b": 0o2770, "a/file": 0o660, "setuid": 0o4760, "a/link": 0o777, "folder-link": 0o777, "fifo": 0o660,
	} {
		if path == "" {
			mode = stat(t, dir).Mode & 0o7777 // whatever it was before, the bits are asked of Matches
		}
		if st := stat(t, filepath.Join(dir, path)); st.Gid != gid || st.Mode&0o7777 != mode {
			t.Errorf("%q has group %d and mode %o, want mode %o", path, st.Gid, st.Mode&0o7777, mode)
		}
	}
	if st := stat(t, outside); st.Gid == gid || st.Mode&0o7777 != 0o600 {
		t.Errorf("the file outside has group %d and mode %o", st.Gid, st.Mode&0o7777)
	}
}

func TestWhatIsTheGroupsAlreadyIsNotTouched(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	must(t, os.WriteFile(file, nil, 0o600))
	apply(t, dir)
	before := stat(t, file).Ctim
	apply(t, dir)
	if after := stat(t, file).Ctim; after != before {
		t.Errorf("changed at %v, and again at %v", before, after)
	}
}

// TestALinkInAFilesPlaceIsNotFollowed is the moment between a look at a name and the change: what was looked at is
// exchanged for a link that leads out.
func TestALinkInAFilesPlaceIsNotFollowed(t *testing.T) {
	dir, outside := t.TempDir(), filepath.Join(t.TempDir(), "shadow")
	must(t, os.WriteFile(outside, nil, 0o600))
	name := filepath.Join(dir, "file")
	must(t, os.WriteFile(name, nil, 0o600))
	seen := stat(t, name)
	must(t, os.Remove(name))
	must(t, os.Symlink(outside, name))
	fd, err := unix.Open(name, unix.O_PATH|unix.O_NOFOLLOW, 0)
	must(t, err)
	defer unix.Close(fd)
	// Even with what was seen of the file, the link is all that can be changed.
	err = change{gid}.opened(fd, "file", seen)
	if st := stat(t, outside); st.Gid == gid || st.Mode&0o7777 != 0o600 {
		t.Errorf("the file outside has group %d and mode %o (%v)", st.Gid, st.Mode&0o7777, err)
	}
}

func TestAWalkEndsWithItsContext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	dir := t.TempDir()
	must(t, os.WriteFile(filepath.Join(dir, "file"), nil, 0o600))
	root, err := os.Open(dir)
	must(t, err)
	defer root.Close()
	if err := Apply(ctx, root, gid); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}
