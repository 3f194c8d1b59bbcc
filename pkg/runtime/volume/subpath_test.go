package volume

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/katadirect/katadirect/pkg/directvolume"
)

// bindMount mounts source at a new folder of that name, as kubelet does it with a subPath.
func (h *host) bindMount(source, name string) string {
	h.t.Helper()
	target := h.folder(name)
	if err := unix.Mount(source, target, "", unix.MS_BIND, ""); err != nil {
		h.t.Fatal(err)
	}
	h.t.Cleanup(func() { _ = unix.Unmount(target, unix.MNT_DETACH) })
	return target
}

func (h *host) folder(name string) string {
	h.t.Helper()
	path := filepath.Join(h.dir, name)
	if err := os.MkdirAll(path, 0o755); err != nil {
		h.t.Fatal(err)
	}
	return path
}

func TestAPartOfAVolumesFolderIsThatPartOfTheVolume(t *testing.T) {
	h := newHost(t)
	h.set.Features.SubPath = true
	path := h.record("v", nil)
	part, link := h.folder("target/v/a/b"), filepath.Join(h.dir, "link")
	if err := os.Symlink(part, link); err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct{ name, source, inside string }{
		{"a folder in it", part, "a/b"},
		{"one that is not there yet", filepath.Join(path, "none"), "none"},
		{"a folder of it that is bound elsewhere", h.bindMount(part, "bound"), "a/b"},
		{"all of it that is bound elsewhere", h.bindMount(path, "whole"), ""},
		{"a link into it", link, "a/b"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			h.set.Disabled = true
			if _, err := h.set.Attach(t.Context(), "c1", tc.source); !errors.Is(err, ErrDisabled) {
				t.Errorf("where block devices are forbidden: %v", err)
			}
			h.set.Disabled = false
			use := h.attach("c1", tc.source)
			h.state(path, 1, true)
			volume := use.Storages[0]
			if volume.GetDriver() != "blk" {
				t.Errorf("the volume comes first: %v", use.Storages)
			}
			if tc.inside == "" {
				if use.GuestPath != volume.GetMountPoint() || len(use.Storages) != 1 {
					t.Errorf("the whole volume: %+v", use)
				}
			} else if p := use.Storages[1]; len(use.Storages) != 2 || p.GetDriver() != "katadirect.subpath" ||
				p.GetSource() != volume.GetMountPoint() || p.GetMountPoint() != use.GuestPath ||
				p.GetDriverOptions()[0] != "katadirect.io/subpath="+tc.inside {
				t.Errorf("%+v", use)
			}
			h.detach("c1")
			h.state(path, 0, false)
		})
	}
}

func TestContainersHavePartsOfTheirOwnOfOneDisk(t *testing.T) {
	h := newHost(t)
	h.set.Features.SubPath = true
	path := h.record("v", nil)
	a, again, b := h.attach("c1", path+"/a"), h.attach("c1", path+"/a"), h.attach("c1", path+"/b")
	other, whole := h.attach("c2", path+"/a"), h.attach("c2", path)
	if h.machine.plugs != 1 {
		t.Errorf("plugged %d times", h.machine.plugs)
	}
	if a.GuestPath != again.GuestPath || len(again.Storages) != 1 {
		t.Errorf("the same part again: %+v, want one more count of it and none of the volume", again)
	}
	if a.GuestPath == b.GuestPath || a.GuestPath == other.GuestPath || whole.GuestPath == other.GuestPath || len(whole.Storages) != 0 {
		t.Errorf("%+v, %+v, %+v, %+v", a, b, other, whole)
	}
}

func TestKatasAgentIsGivenThePathInsideTheVolume(t *testing.T) {
	h := newHost(t)
	use := h.attach("c1", h.record("v", nil)+"/a/b")
	if want := use.Storages[0].GetMountPoint() + "/a/b"; len(use.Storages) != 1 || use.GuestPath != want {
		t.Errorf("%+v, want %s", use, want)
	}
}

func TestAPartWhoseNameCannotBeToldIsRefused(t *testing.T) {
	h := newHost(t)
	path := h.record("v", nil)
	gone := h.bindMount(h.folder("target/v/gone"), "bound")
	if err := os.Remove(path + "/gone"); err != nil {
		t.Fatal(err)
	}
	for _, source := range []string{path + "/\xff", gone} {
		if _, err := h.set.Attach(t.Context(), "c1", source); !errors.Is(err, ErrSubPath) {
			t.Errorf("%q: %v", source, err)
		}
	}
	h.state(path, 0, false)
}

func TestFoldersBesideAVolumeAreOrdinaryOnes(t *testing.T) {
	h := newHost(t)
	path := h.record("v", nil)
	ordinary := h.folder("ordinary")
	for _, source := range []string{h.bindMount(ordinary, "other"), filepath.Dir(path), path + "2", ordinary} {
		if _, err := h.set.Attach(t.Context(), "c1", source); !errors.Is(err, directvolume.ErrNotFound) {
			t.Errorf("%s: %v, want ErrNotFound", source, err)
		}
	}
	// Part of a record that cannot be read: nobody may take the folder for an ordinary one.
	files, err := filepath.Glob(h.dir + "/records/*/mountInfo.json")
	if err != nil || len(files) != 1 {
		t.Fatal(files, err)
	}
	if err := os.Truncate(files[0], 10); err != nil {
		t.Fatal(err)
	}
	_, err = h.set.Attach(t.Context(), "c1", path+"/a")
	if !errors.Is(err, directvolume.ErrInvalid) || !strings.Contains(err.Error(), path) {
		t.Errorf("a part of a torn record: %v", err)
	}
}

func TestAFolderThatOnlyLooksLikeOneOfThePodIsNone(t *testing.T) {
	const parent = "volumes/kubernetes.io~empty-dir"
	h := newHost(t)
	cache := h.folder("pods/uid/" + parent + "/cache/a")
	// Who writes to a volume made these, and a subPath leads to them.
	forged := h.folder("pods/uid/volumes/kubernetes.io~csi/pv/mount/" + parent + "/x")
	elsewhere := h.folder("disk/pods/uid/" + parent + "/x")
	nested := h.folder("pods/uid/" + parent + "/cache/" + parent + "/x")
	whole := filepath.Dir(cache)
	for _, tc := range []struct{ name, source, dir, inside string }{
		{"a volume", whole, whole, ""},
		{"a part of it", h.bindMount(cache, "pods/uid/volume-subpaths/cache/c/0"), whole, "a"},
		{"in another volume", h.bindMount(forged, "pods/uid/volume-subpaths/pv/c/1"), "", ""},
		{"in a volume whose folder is elsewhere", h.bindMount(elsewhere, "pods/uid/volume-subpaths/local/c/2"), "", ""},
		{"in one of its own", h.bindMount(nested, "pods/uid/volume-subpaths/cache/c/3"), whole, parent + "/x"},
	} {
		if dir, inside, err := Below(tc.source, parent); dir != tc.dir || inside != tc.inside || err != nil {
			t.Errorf("%s: %q and %q, %v; want %q and %q", tc.name, dir, inside, err, tc.dir, tc.inside)
		}
	}
}
