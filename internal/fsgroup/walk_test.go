package fsgroup

import (
	"errors"
	"fmt"
	"os"
	"testing"

	"golang.org/x/sys/unix"
)

// deep makes folders in each other, with files in each of them before and after the next folder's name, and many in
// every hundredth. It returns how many things that are.
func deep(t *testing.T, dir string, levels int) (made int) {
	t.Helper()
	fd, err := unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	for level := range levels {
		files := 2
		if level%100 == 0 {
			files = 700 // more than are read at once
		}
		for i := range files {
			if err := unix.Mknodat(fd, fmt.Sprintf("file-%d-of-a-long-name", i), unix.S_IFREG|0o600, 0); err != nil {
				t.Fatal(err)
			}
		}
		err := unix.Mkdirat(fd, "d", 0o755)
		next, openErr := unix.Openat(fd, "d", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		if err := errors.Join(err, openErr, unix.Close(fd)); err != nil {
			t.Fatal(err)
		}
		fd, made = next, made+files+1
	}
	if err := unix.Close(fd); err != nil {
		t.Fatal(err)
	}
	return made
}

// Not parallel: it counts what the whole process has open.
func TestAWalkVisitsEverythingOnceAndHoldsFewFoldersOpen(t *testing.T) {
	dir := t.TempDir()
	want := deep(t, dir, 500)
	root, err := os.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	before, most := openFiles(t), 0
	seen := map[fileID]bool{}
	err = walk(t.Context(), root, func(at int, name string) error {
		var st unix.Stat_t
		if err := unix.Fstatat(at, name, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
			return err
		}
		id := fileID{st.Dev, st.Ino}
		if seen[id] {
			t.Errorf("%s is visited twice", name)
		}
		seen[id] = true
		if name == "d" {
			most = max(most, openFiles(t))
		}
		return nil
	})
	if err != nil || len(seen) != want {
		t.Errorf("%d things were visited, of %d; %v", len(seen), want, err)
	}
	if most > before+openFolders+1 {
		t.Errorf("%d files were open, %d before", most, before)
	}
	if now := openFiles(t); now != before {
		t.Errorf("%d files are open afterwards, %d before", now, before)
	}
}

func TestAWalkEndsWithTheFirstError(t *testing.T) {
	dir := t.TempDir()
	deep(t, dir, 100)
	root, err := os.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	before, stop := openFiles(t), errors.New("stop")
	if err := walk(t.Context(), root, func(int, string) error { return stop }); !errors.Is(err, stop) {
		t.Error(err)
	}
	if now := openFiles(t); now != before {
		t.Errorf("%d files are open afterwards, %d before", now, before)
	}
}

func openFiles(t *testing.T) int {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(entries)
}
