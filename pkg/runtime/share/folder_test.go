package share

import (
	"os"
	"path/filepath"
	"testing"
)

func TestAFolderIsTheSameForAllContainersAsLongAsOneUsesIt(t *testing.T) {
	s := start(t)
	dir := filepath.Dir(writeFile(t, filepath.Join(t.TempDir(), "d", "f"), "folder"))
	bind := func(container, source string, readOnly bool) string {
		t.Helper()
		path, err := s.Bind(t.Context(), container, source, "/data", readOnly)
		if err != nil {
			t.Fatal(err)
		}
		return path
	}
	first := bind("c1", dir, false)
	if again := bind("c2", dir, false); again != first {
		t.Errorf("the second container has %s, the first %s", again, first)
	}
	// One that is read-only to a container must not be another's writable one.
	readOnly := bind("c2", dir, true)
	if readOnly == first {
		t.Error("read-only and writable are the same mount")
	}
	if file := bind("c1", dir+"/f", false); bind("c2", dir+"/f", false) == file {
		t.Error("files are shared: a file is one mount for each container")
	}
	there := func(guestPath string) bool {
		_, err := os.ReadFile(onHost(t, s.tree.shared(), guestPath) + "/f")
		return err == nil
	}
	if err := s.Release(t.Context(), "c1"); err != nil {
		t.Fatal(err)
	}
	if !there(first) {
		t.Error("the first container has taken the second's folder with it")
	}
	third := bind("c3", dir, false)
	if err := s.Release(t.Context(), "c2"); err != nil {
		t.Fatal(err)
	}
	if third != first || !there(first) || there(readOnly) {
		t.Errorf("the third container has %s; there %v, and the read-only one %v", third, there(first), there(readOnly))
	}
	// The same name, but another folder.
	if err := os.Rename(dir, dir+"-old"); err != nil {
		t.Fatal(err)
	}
	writeFile(t, filepath.Join(dir, "f"), "new")
	if anew := bind("c4", dir, false); anew == first {
		t.Error("a new folder of the same name is taken for the old one")
	}
	for _, c := range []string{"c3", "c3", "c4"} {
		if err := s.Release(t.Context(), c); err != nil {
			t.Fatal(err)
		}
	}
	if there(first) || len(s.folders) > 0 {
		t.Errorf("left %v", s.folders)
	}
}
