package volume

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/katadirect/katadirect/pkg/directvolume"
)

func TestAPartOfAVolumesFolderIsNeverTakenForAnOrdinaryOne(t *testing.T) {
	h := newHost(t)
	path := h.record("v", nil)
	ordinary := filepath.Join(h.dir, "ordinary")
	part, bound, other := filepath.Join(path, "a", "b"), filepath.Join(h.dir, "bound"), filepath.Join(h.dir, "other")
	whole, link := filepath.Join(h.dir, "whole"), filepath.Join(h.dir, "link")
	if err := os.Symlink(part, link); err != nil {
		t.Fatal(err)
	}
	for _, dir := range []string{part, bound, whole, other, ordinary} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for target, source := range map[string]string{bound: part, whole: path, other: ordinary} { // as kubelet binds a subPath
		if err := unix.Mount(source, target, "", unix.MS_BIND, ""); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = unix.Unmount(target, unix.MNT_DETACH) })
	}
	for _, tc := range []struct {
		name, source string
		want         error
	}{
		{"a folder in it", part, ErrSubPath},
		{"one that is not there yet", filepath.Join(path, "none"), ErrSubPath},
		{"a folder of it that is bound elsewhere", bound, ErrSubPath},
		{"all of it that is bound elsewhere", whole, ErrSubPath},
		{"a link into it", link, ErrSubPath},
		{"an ordinary folder that is bound", other, directvolume.ErrNotFound},
		{"the folder above", filepath.Dir(path), directvolume.ErrNotFound},
		{"a neighbour with a longer name", path + "2", directvolume.ErrNotFound},
	} {
		for _, disabled := range []bool{false, true} {
			h.set.Disabled = disabled
			_, err := h.set.Attach(t.Context(), "c1", tc.source)
			if !errors.Is(err, tc.want) || tc.want == ErrSubPath && errors.Is(err, directvolume.ErrNotFound) {
				t.Errorf("%s: error %v, want %v", tc.name, err, tc.want)
			}
		}
	}
	h.state(path, 0, false)
}
