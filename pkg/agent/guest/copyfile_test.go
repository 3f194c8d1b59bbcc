package guest

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func regular(path, data string) File {
	return File{Path: path, Size: int64(len(data)), Mode: unix.S_IFREG | 0o640, DirMode: 0o750, UID: os.Getuid(), GID: os.Getgid(), Data: []byte(data)}
}

func TestFilesComeInPieces(t *testing.T) {
	base := t.TempDir()
	path := filepath.Join(base, "a/b/file")
	first, second := regular(path, "hello "), regular(path, "world")
	first.Size, second.Size, second.Offset = 11, 11, 6
	if err := copyFile(base, first); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("half a file has its name already: %v", err)
	}
	if err := copyFile(base, second); err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(path)
	info, _ := os.Stat(path)
	if err != nil || string(data) != "hello world" || info.Mode() != 0o640 {
		t.Errorf("%q, %v, %v", data, info.Mode(), err)
	}
	// Sent again, it is replaced.
	if err := copyFile(base, regular(path, "new")); err != nil {
		t.Fatal(err)
	}
	if data, _ := os.ReadFile(path); string(data) != "new" {
		t.Errorf("%q", data)
	}
	if entries, _ := os.ReadDir(filepath.Dir(path)); len(entries) != 1 {
		t.Errorf("left beside the file: %v", entries)
	}
}

func TestFoldersLinksAndSpecialModes(t *testing.T) {
	base := t.TempDir()
	dir := File{Path: filepath.Join(base, "dir"), Mode: unix.S_IFDIR | unix.S_ISVTX | 0o777, UID: os.Getuid(), GID: os.Getgid()}
	link := File{Path: filepath.Join(base, "dir/link"), Mode: unix.S_IFLNK | 0o777, UID: os.Getuid(), GID: os.Getgid(), Data: []byte("../target")}
	for range 2 { // the second time everything is there
		if err := errors.Join(copyFile(base, dir), copyFile(base, link)); err != nil {
			t.Fatal(err)
		}
	}
	if info, err := os.Stat(dir.Path); err != nil || info.Mode() != os.ModeDir|os.ModeSticky|0o777 {
		t.Errorf("%v, %v", info, err)
	}
	if target, err := os.Readlink(link.Path); err != nil || target != "../target" {
		t.Errorf("%q, %v", target, err)
	}
	empty := regular(filepath.Join(base, "empty"), "")
	if err := copyFile(base, empty); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(empty.Path); err != nil {
		t.Error(err)
	}
}

func TestNothingIsWrittenOutsideOfTheFolder(t *testing.T) {
	base, outside := t.TempDir(), t.TempDir()
	if err := os.Symlink(outside, filepath.Join(base, "out")); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(filepath.Join(outside, "x"), partOf(filepath.Join(base, "file"))); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{
		"/etc/x", "x", "", base, base + "/", base + "/..", base + "/../x", base + "x/y", base + "/out/x", base + "/out/dir/x", base + "/file",
	} {
		if err := copyFile(base, regular(path, "data")); err == nil {
			t.Errorf("%q was written", path)
		}
	}
	if entries, err := os.ReadDir(outside); err != nil || len(entries) != 0 {
		t.Errorf("written outside: %v, %v", entries, err)
	}
}

func TestPiecesThatDoNotFitAreRefused(t *testing.T) {
	base := t.TempDir()
	for _, change := range []func(*File){
		func(f *File) { f.Offset = -1 },
		func(f *File) { f.Size = -1 },
		func(f *File) { f.Size = 2 },
		func(f *File) { f.Offset = 100 },
		func(f *File) { f.Offset = 1<<63 - 1; f.Size = 1<<63 - 1 },
		func(f *File) { f.Mode = unix.S_IFIFO | 0o600 },
		func(f *File) { f.Mode = unix.S_IFBLK | 0o600 },
	} {
		f := regular(filepath.Join(base, "file"), "data")
		change(&f)
		if err := copyFile(base, f); !errors.Is(err, ErrRequest) {
			t.Errorf("%+v: %v, want ErrRequest", f, err)
		}
	}
}

func TestAFileThatIsExchangedSparesItsNeighbours(t *testing.T) {
	base := t.TempDir()
	long := strings.Repeat("n", unix.NAME_MAX)
	link := File{Path: filepath.Join(base, "b"), Mode: unix.S_IFLNK | 0o777, UID: os.Getuid(), GID: os.Getgid(), Data: []byte("a")}
	for _, f := range []File{
		regular(filepath.Join(base, "a.tmp"), "neighbour"), regular(filepath.Join(base, "b.tmp"), "neighbour"),
		regular(filepath.Join(base, "a"), "one"), regular(filepath.Join(base, "a"), "another"), link,
		regular(filepath.Join(base, long), "long"),
	} {
		if err := copyFile(base, f); err != nil {
			t.Fatal(err)
		}
	}
	for name, want := range map[string]string{
		"a": "another", "b": "another", "a.tmp": "neighbour", "b.tmp": "neighbour", long: "long",
	} {
		if data, err := os.ReadFile(filepath.Join(base, name)); err != nil || string(data) != want {
			t.Errorf("%.10s: %q, %v; want %q", name, data, err, want)
		}
	}
}
