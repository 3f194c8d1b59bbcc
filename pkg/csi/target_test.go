package csi

import (
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc/codes"

	"github.com/katadirect/katadirect/pkg/directvolume"
)

func TestBadTargetPathsAreRefused(t *testing.T) {
	h := newHost(t)
	v := h.create("pvc")
	must(t, v.stage())
	for name, path := range map[string]string{
		"empty":               "",
		"relative":            "pods/x/mount",
		"dots":                h.path("pods") + "/../pods/mount",
		"the root":            "/",
		"the root, in length": "//.",
		"a NUL":               h.path("pods") + "/a\x00b",
		"longer than a path":  "/" + strings.Repeat("x/", 2100),
		"longer than a key":   h.path(strings.Repeat("x", 190)),
	} {
		t.Run(name, func(t *testing.T) {
			refused(t, v.publish(path), codes.InvalidArgument)
			if name != "longer than a key" { // such a path cannot be published, but a folder there can be cleaned up
				refused(t, v.unpublish(path), codes.InvalidArgument)
			}
			_, err := h.NodeStageVolume(t.Context(), &csi.NodeStageVolumeRequest{
				VolumeId: v.id, StagingTargetPath: path, VolumeCapability: v.cap,
			})
			if name != "longer than a key" {
				refused(t, err, codes.InvalidArgument)
			}
		})
	}
	refused(t, v.publish(h.path("no", "such", "folder")), codes.FailedPrecondition, "does not exist")
	if entries, _ := h.store().List(t.Context()); len(entries) != 0 {
		t.Errorf("refused publishes left records: %v", entries)
	}
}

// What stands at the target path before publish, and how it has to be afterwards.
func TestPublishOverSomething(t *testing.T) {
	tests := map[string]struct {
		plant func(t *testing.T, target string)
		word  string // in the refusal; "" if publish succeeds
	}{
		"an empty folder": {func(t *testing.T, target string) { must(t, os.Mkdir(target, 0o755)) }, ""},
		"a folder with data": {func(t *testing.T, target string) {
			must(t, os.Mkdir(target, 0o755))
			writeFile(t, target+"/data", "mine")
		}, "not empty"},
		"a file": {func(t *testing.T, target string) { writeFile(t, target, "mine") }, "not a folder"},
		"a link": {func(t *testing.T, target string) {
			must(t, os.Mkdir(target+".real", 0o755))
			must(t, os.Symlink(target+".real", target))
		}, "not a folder"},
		"a mount": {func(t *testing.T, target string) {
			must(t, os.Mkdir(target, 0o755))
			mountTmpfs(t, target)
		}, "mounted"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			h := newHost(t)
			v, target := h.create("pvc"), h.target("pod")
			must(t, v.stage())
			test.plant(t, target)
			err := v.publish(target)
			if test.word == "" {
				must(t, err)
				return
			}
			refused(t, err, codes.FailedPrecondition, target, test.word)
			if _, err := os.Lstat(target); err != nil {
				t.Errorf("what stood there is gone: %v", err)
			}
			if entries, _ := h.store().List(t.Context()); len(entries) != 0 {
				t.Errorf("a refused publish left a record: %v", entries)
			}
		})
	}
}

func mountTmpfs(t *testing.T, path string) {
	t.Helper()
	if out, err := exec.Command("mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", path).CombinedOutput(); err != nil {
		t.Fatalf("mount: %v: %s", err, out)
	}
	t.Cleanup(func() { exec.Command("umount", path).Run() })
}

func TestUnpublishNeverDeletesData(t *testing.T) {
	tests := map[string]struct {
		plant func(t *testing.T, target string)
		word  string
	}{
		"data in the folder": {func(t *testing.T, target string) { writeFile(t, filepath.Join(target, "data"), "mine") }, "not empty"},
		"a mount":            {mountTmpfs, "mounted"},
		"data deep in it": {func(t *testing.T, target string) {
			must(t, os.MkdirAll(filepath.Join(target, "a", "b"), 0o750))
			must(t, os.Mkdir(filepath.Join(target, "c"), 0o750))
			writeFile(t, filepath.Join(target, "a", "b", "data"), "mine")
		}, "not empty"},
		"a link in it": {func(t *testing.T, target string) {
			must(t, os.Symlink(t.TempDir(), filepath.Join(target, "link")))
		}, "not empty"},
		"a mount in it": {func(t *testing.T, target string) {
			must(t, os.MkdirAll(filepath.Join(target, "a"), 0o750))
			mountTmpfs(t, filepath.Join(target, "a"))
			must(t, os.Mkdir(filepath.Join(target, "a", "theirs"), 0o750))
		}, "not empty"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			h := newHost(t)
			v, target := h.published("pvc")
			test.plant(t, target)
			before := treeOf(t, target)
			refused(t, v.unpublish(target), codes.FailedPrecondition, target, test.word)
			after := treeOf(t, target)
			if !slices.Equal(before, after) {
				t.Errorf("of %v there is only %v left", before, after)
			}
		})
	}
	t.Run("data, then emptied", func(t *testing.T) {
		h := newHost(t)
		v, target := h.published("pvc")
		writeFile(t, filepath.Join(target, "data"), "mine")
		refused(t, v.unpublish(target), codes.FailedPrecondition)
		if got := readFile(t, filepath.Join(target, "data"), 4); got != "mine" {
			t.Errorf("the file holds %q", got)
		}
		must(t, os.Remove(filepath.Join(target, "data")))
		must(t, v.unpublish(target))
	})
}

func treeOf(t *testing.T, path string) (names []string) {
	t.Helper()
	must(t, filepath.WalkDir(path, func(name string, _ fs.DirEntry, err error) error {
		names = append(names, name)
		return err
	}))
	return names
}

// kubelet makes the folder of a subPath in the target path. The runtime refuses the container then, and the pod has to
// be able to go.
func TestUnpublishTakesTheEmptyFoldersOfASubPath(t *testing.T) {
	h := newHost(t)
	v, target := h.published("pvc")
	must(t, os.MkdirAll(filepath.Join(target, "a", "b"), 0o750))
	must(t, os.Mkdir(filepath.Join(target, "c"), 0o750))
	must(t, v.unpublish(target))
	if _, err := os.Lstat(target); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the target path is still there: %v", err)
	}
	must(t, v.unstage())
	must(t, v.delete())
}

// /var/lib/kubelet is a link on some hosts; containerd resolves it before the shim looks for the record.
func TestKubeletsFolderMayBeALink(t *testing.T) {
	h := newHost(t)
	must(t, os.MkdirAll(h.path("real", "pod"), 0o750))
	must(t, os.Symlink(h.path("real"), h.path("link")))
	v := h.create("pvc")
	must(t, v.stage())
	target := h.path("link", "pod", "mount")
	must(t, v.publish(target))
	must(t, v.publish(target))
	if _, err := os.Stat(h.path("records", directvolume.EncodeKey(h.path("real", "pod", "mount")), "mountInfo.json")); err != nil {
		t.Errorf("no record under the real path: %v", err)
	}
	if _, err := v.expand(t.Context(), target, 2*gib); err != nil {
		t.Error(err)
	}
	must(t, v.unpublish(target))
	if left, _ := h.store().List(t.Context()); len(left) != 0 {
		t.Errorf("unpublish left %v", left)
	}
}
