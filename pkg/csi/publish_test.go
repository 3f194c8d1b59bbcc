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

func TestASecondTargetPathIsRefusedWhateverTheMode(t *testing.T) {
	for _, mode := range []csi.VolumeCapability_AccessMode_Mode{
		csi.VolumeCapability_AccessMode_SINGLE_NODE_WRITER,
		csi.VolumeCapability_AccessMode_SINGLE_NODE_SINGLE_WRITER,
		csi.VolumeCapability_AccessMode_SINGLE_NODE_MULTI_WRITER,
		csi.VolumeCapability_AccessMode_SINGLE_NODE_READER_ONLY,
	} {
		t.Run(mode.String(), func(t *testing.T) {
			h := newHost(t)
			v, first := h.published("pvc", withMode(mode))
			second := h.target("second")
			refused(t, v.publish(second), codes.FailedPrecondition, "one pod at a time", first)
			s := h.runShim("sandbox1", nil)
			s.claim(first)
			refused(t, v.publish(second), codes.FailedPrecondition, "sandbox1", first)
			if _, err := os.Lstat(second); !os.IsNotExist(err) {
				t.Errorf("the refused target path is there: %v", err)
			}
			must(t, v.publish(first)) // again where it is
			s.release(first)
			must(t, v.unpublish(first))
			must(t, v.publish(second))
		})
	}
}

func TestPublishAgainOtherwiseIsRefused(t *testing.T) {
	h := newHost(t)
	v, target := h.published("pvc")
	request := v.publishRequest(target)
	request.Readonly = true
	_, err := h.NodePublishVolume(t.Context(), request)
	refused(t, err, codes.AlreadyExists, target)
	v.cap = capability(withFlags("noatime"))
	refused(t, v.publish(target), codes.AlreadyExists, "noatime")
}

func TestReadOnlyPublishNeitherWritesNorFormats(t *testing.T) {
	tests := map[string]struct {
		change   []func(*csi.VolumeCapability)
		readonly bool
	}{
		"by the request":      {nil, true},
		"by the access mode":  {[]func(*csi.VolumeCapability){withMode(csi.VolumeCapability_AccessMode_SINGLE_NODE_READER_ONLY)}, false},
		"by the mount option": {[]func(*csi.VolumeCapability){withFlags("ro")}, false},
		"by all of them":      {[]func(*csi.VolumeCapability){withMode(csi.VolumeCapability_AccessMode_SINGLE_NODE_READER_ONLY), withFlags("ro")}, true},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			h := newHost(t)
			v, target := h.create("pvc", test.change...), h.target("pod")
			must(t, v.stage())
			request := v.publishRequest(target)
			request.Readonly = test.readonly
			_, err := h.NodePublishVolume(t.Context(), request)
			must(t, err)
			record, err := h.store().Get(t.Context(), target)
			must(t, err)
			if !slices.Equal(record.Options, []string{"ro"}) || record.Metadata[directvolume.MetadataFormat] != "" {
				t.Errorf("the record is %+v", record)
			}
		})
	}
}

func TestMountGroupBecomesFSGroup(t *testing.T) {
	for group, want := range map[string]string{"": "", "0": "", "1000": "1000", "0044": "44", "4294967295": "4294967295"} {
		h := newHost(t)
		_, target := h.published("pvc", withGroup(group))
		record, err := h.store().Get(t.Context(), target)
		must(t, err)
		if got := record.Metadata[directvolume.MetadataFSGroup]; got != want {
			t.Errorf("group %q became fsGroup %q, want %q", group, got, want)
		}
	}
}

func TestPublishNeedsStaging(t *testing.T) {
	h := newHost(t)
	v, target := h.create("pvc"), h.target("pod")
	refused(t, v.publish(target), codes.FailedPrecondition, "staged")
	must(t, v.stage())
	request := v.publishRequest(target)
	request.StagingTargetPath = ""
	_, err := h.NodePublishVolume(t.Context(), request)
	refused(t, err, codes.FailedPrecondition, "staging")
	request.StagingTargetPath = h.path("elsewhere")
	_, err = h.NodePublishVolume(t.Context(), request)
	refused(t, err, codes.FailedPrecondition, h.staging(v.id))
	if _, err := os.Lstat(target); !os.IsNotExist(err) {
		t.Errorf("a refused publish left the target path: %v", err)
	}
}

func TestUnstageWaitsForUnpublish(t *testing.T) {
	h := newHost(t)
	v, target := h.published("pvc")
	refused(t, v.unstage(), codes.FailedPrecondition, target)
	must(t, v.unpublish(target))
	must(t, v.unstage())
}

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

func TestDeleteRefusesWhenItCannotBeKnownWhetherTheVolumeIsStaged(t *testing.T) {
	h := newHost(t)
	v := h.create("pvc")
	must(t, os.MkdirAll(h.path("state", "staged", v.id+".json"), 0o700))
	refused(t, v.delete(), codes.Internal, v.id)
	if _, err := os.Lstat(v.image()); err != nil {
		t.Errorf("the image is gone: %v", err)
	}
}

func TestUnpublishWaitsForTheSandboxToLetGo(t *testing.T) {
	h := newHost(t)
	v, target := h.published("pvc")
	s := h.runShim("sandbox1", nil)
	s.claim(target)
	refused(t, v.unpublish(target), codes.FailedPrecondition, "sandbox1")
	if _, err := h.store().Get(t.Context(), target); err != nil {
		t.Errorf("the record is gone: %v", err)
	}
	s.die() // killed: the claim is left, but nobody has the volume
	must(t, v.unpublish(target))
	must(t, v.unstage())
	must(t, v.delete())
}

func TestOneVolumesRecordIsSafeFromAnother(t *testing.T) {
	h := newHost(t)
	v, target := h.published("first")
	other := h.create("second")
	must(t, other.stage())
	refused(t, other.publish(target), codes.FailedPrecondition, v.id)
	refused(t, other.unpublish(target), codes.FailedPrecondition, v.id)
	_, err := other.expand(t.Context(), target, 2*gib)
	refused(t, err, codes.NotFound)
	_, err = other.stats(target)
	refused(t, err, codes.NotFound)
	record, err := h.store().Get(t.Context(), target)
	if err != nil || record.Device != v.image() {
		t.Errorf("the first volume's record is %+v, %v", record, err)
	}
}

// Somebody's own record for the image counts as much as ours: two machines on one disk destroy it.
func TestARecordThatOthersMadeForTheImageCounts(t *testing.T) {
	h := newHost(t)
	v, target := h.create("pvc"), h.target("pod")
	must(t, v.stage())
	elsewhere := h.target("by-hand")
	must(t, h.store().Add(t.Context(), elsewhere, directvolume.Record{Device: v.image(), FSType: "ext4"}))
	refused(t, v.publish(target), codes.FailedPrecondition, elsewhere)
	refused(t, v.unstage(), codes.FailedPrecondition, elsewhere)
	must(t, h.store().Remove(t.Context(), elsewhere))
	must(t, v.publish(target))
}

func TestATornRecordIsReplacedOrRemoved(t *testing.T) {
	for name, content := range map[string]string{"empty": "", "torn": `{"volume-type":"dir`, "huge": strings.Repeat(" ", 70<<10)} {
		t.Run(name, func(t *testing.T) {
			h := newHost(t)
			v, target := h.published("pvc")
			recordFile := h.path("records", directvolume.EncodeKey(target), "mountInfo.json")
			must(t, os.WriteFile(recordFile, []byte(content), 0o600))
			must(t, v.publish(target))
			if record, err := h.store().Get(t.Context(), target); err != nil || record.Device != v.image() {
				t.Errorf("after publishing again the record is %+v, %v", record, err)
			}
			must(t, os.WriteFile(recordFile, []byte(content), 0o600))
			must(t, v.unpublish(target))
			if left, _ := h.store().List(t.Context()); len(left) != 0 {
				t.Errorf("unpublish left %v", left)
			}
		})
	}
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

func TestInlineEphemeralVolumesAreRefusedByName(t *testing.T) {
	h := newHost(t)
	request := h.create("pvc").publishRequest(h.target("pod"))
	request.VolumeContext = map[string]string{ephemeralKey: "true"}
	_, err := h.NodePublishVolume(t.Context(), request)
	refused(t, err, codes.InvalidArgument, "ephemeral")
}
