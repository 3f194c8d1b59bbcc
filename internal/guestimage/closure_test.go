package guestimage

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// fakeLibraries serves libraries from memory and notes what was asked.
type fakeLibraries struct {
	libs  map[string][]byte
	asked []want
}

func (f *fakeLibraries) prefetch(context.Context, []want) error { return nil }

func (f *fakeLibraries) library(_ context.Context, w want) ([]byte, string, error) {
	f.asked = append(f.asked, w)
	data, ok := f.libs[w.soname]
	if !ok {
		return nil, "", fs.ErrNotExist
	}
	return data, "package-of-" + w.soname, nil
}

func TestClosureAddsLibrariesOfLibrariesOnceAndTheLoader(t *testing.T) {
	const loader = "/lib64/ld-linux-x86-64.so.2"
	src := &fakeLibraries{libs: map[string][]byte{
		"liba.so.1":            fakeELF{needed: []string{"libb.so.2", "libc.so.6"}}.bytes(),
		"libb.so.2":            fakeELF{needed: []string{"liba.so.1"}}.bytes(), // a circle
		"libc.so.6":            fakeELF{needed: []string{"ld-linux-x86-64.so.2"}}.bytes(),
		"ld-linux-x86-64.so.2": fakeELF{}.bytes(),
	}}
	tr := newTree()
	programs := []elfFile{
		{path: "/usr/bin/one", data: fakeELF{interp: loader, needed: []string{"liba.so.1"}}.bytes(), pkg: "one"},
		{path: "/usr/bin/two", data: fakeELF{interp: loader, needed: []string{"liba.so.1", "libc.so.6"}}.bytes(), pkg: "two"},
		{path: "/usr/bin/static", data: fakeELF{}.bytes(), pkg: "static"},
	}
	if err := addClosure(t.Context(), tr, programs, src); err != nil {
		t.Fatal(err)
	}
	for soname := range src.libs {
		if !tr.has("/lib/x86_64-linux-gnu/" + soname) {
			t.Errorf("%s is not in the image", soname)
		}
	}
	if got := string(tr[clean(loader)].data); got != "/usr/lib/x86_64-linux-gnu/ld-linux-x86-64.so.2" {
		t.Errorf("%s leads to %q", loader, got)
	}
	asked := []want{{"liba.so.1", "one"}, {"ld-linux-x86-64.so.2", "one"}, {"libc.so.6", "two"}, {"libb.so.2", "package-of-liba.so.1"}}
	if diff := cmp.Diff(asked, src.asked, cmp.AllowUnexported(want{})); diff != "" {
		t.Error(diff)
	}
}

func TestClosureFailsForALibraryThatIsNowhere(t *testing.T) {
	program := elfFile{path: "/bin/x", data: fakeELF{needed: []string{"libgone.so.1"}}.bytes(), pkg: "x"}
	if err := addClosure(t.Context(), newTree(), []elfFile{program}, &fakeLibraries{}); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("error %v, want fs.ErrNotExist", err)
	}
}

func TestReadInRootStaysInTheRoot(t *testing.T) {
	outside := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(outside, []byte("outside"), 0o644); err != nil {
		t.Fatal(err)
	}
	root := t.TempDir()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(os.Mkdir(filepath.Join(root, "lib"), 0o755))
	must(os.WriteFile(filepath.Join(root, "lib/real"), []byte("inside"), 0o644))
	must(os.Symlink("real", filepath.Join(root, "lib/relative")))
	must(os.Symlink("/lib/real", filepath.Join(root, "lib/absolute")))
	must(os.Symlink(outside, filepath.Join(root, "lib/escape")))
	must(os.Symlink("../../../../../../../../"+outside, filepath.Join(root, "lib/climb")))
	must(os.Symlink("circle", filepath.Join(root, "lib/circle")))
	must(os.Symlink(filepath.Dir(outside), filepath.Join(root, "dir")))
	for p, want := range map[string]string{
		"/lib/real": "inside", "lib/relative": "inside", "/lib/absolute": "inside",
		"/lib/escape": "", "/lib/climb": "", "/lib/circle": "", "/dir/secret": "",
	} {
		got, err := readInRoot(root, p)
		if string(got) != want || (err == nil) != (want != "") {
			t.Errorf("%s: %q, error %v; want %q", p, got, err, want)
		}
	}
}

func TestLibraryPackageFollowsDebiansNaming(t *testing.T) {
	for soname, want := range map[string]string{
		"libcap.so.2": "libcap2", "libcom_err.so.2": "libcom-err2", "libext2fs.so.2": "libext2fs2",
		"liblz4.so.1": "liblz4-1", "libgpg-error.so.0": "libgpg-error0", "libc.so.6": "libc6",
		"ld-linux-x86-64.so.2": "ld-linux-x86-64-2", "libplugin.so": "", "": "",
	} {
		if got := libraryPackage(soname); got != want {
			t.Errorf("%s: %q, want %q", soname, got, want)
		}
	}
}
