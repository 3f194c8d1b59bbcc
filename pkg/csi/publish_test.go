package csi

import (
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc/codes"

	"github.com/katadirect/katadirect/pkg/csi/kube"
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

func TestTheRecordHasThePodsGroupPolicy(t *testing.T) {
	for name, test := range map[string]struct{ group, says, want string }{
		"always":       {"2000", "Always", "Always"},
		"on mismatch":  {"2000", "OnRootMismatch", "OnRootMismatch"},
		"nothing":      {"2000", "", ""},
		"another word": {"2000", "Sometimes", ""},
		"no group":     {"", "OnRootMismatch", ""},
	} {
		t.Run(name, func(t *testing.T) {
			h, cluster := newModesHost(t)
			cluster.policyOf = map[string]string{"machine": test.says}
			v := h.createIn("data", inMode("direct"))
			withGroup(test.group)(v.cap)
			must(t, v.stage())
			target := h.target("pod")
			policy := func() string {
				t.Helper()
				must(t, v.publishFor("machine", target))
				record, err := h.store().Get(t.Context(), target)
				must(t, err)
				return record.Metadata[directvolume.MetadataFSGroupChangePolicy]
			}
			if got := policy(); got != test.want {
				t.Errorf("the record says %q, want %q", got, test.want)
			}
			// Published again, it keeps what it has, whatever is said now and whoever is away.
			cluster.policyOf, cluster.err = nil, kube.ErrUnavailable
			if got := policy(); got != test.want {
				t.Errorf("published again, the record says %q, want %q", got, test.want)
			}
			must(t, v.unpublish(target))
			cluster.policyOf, cluster.err = map[string]string{"machine": "Always"}, nil
			if got := policy(); test.group != "" && got != "Always" {
				t.Errorf("the next pod's record says %q", got)
			}
		})
	}
}
