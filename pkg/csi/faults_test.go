package csi

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc/codes"

	"github.com/katadirect/katadirect/pkg/directvolume"
)

// Faults seen in Kata's own CSI driver. Each of them lost data, or went wrong without a word. The one about kill -9
// needs the real binary and is in test/sanity.

func TestFaultDataIsLostOnUnstage(t *testing.T) {
	h := newHost(t)
	v, target := h.published("pvc")
	writeFile(t, v.image(), "marker")
	must(t, v.unpublish(target))
	must(t, v.unstage())
	must(t, v.stage())
	must(t, v.publish(target))
	if got := readFile(t, v.image(), 6); got != "marker" {
		t.Errorf("the volume holds %q", got)
	}
}

func TestFaultSecondUnpublishOrUnstageFails(t *testing.T) {
	h := newHost(t)
	v, target := h.published("pvc")
	for range 3 {
		must(t, v.unpublish(target))
	}
	for range 3 {
		must(t, v.unstage())
	}
	must(t, v.delete())
	must(t, v.delete())
	// kubelet also cleans up volumes that are long gone
	must(t, v.unpublish(target))
	must(t, v.unstage())
}

func TestFaultRestartBetweenStageAndPublishLosesTheDevice(t *testing.T) {
	h := newHost(t)
	v, target := h.create("pvc"), h.target("pod")
	must(t, v.stage())
	h.restart()
	must(t, v.publish(target))
	record, err := h.store().Get(t.Context(), target)
	must(t, err)
	if record.Device != v.image() {
		t.Errorf("the record's device is %q, want %q", record.Device, v.image())
	}
	h.restart()
	must(t, v.unpublish(target))
	must(t, v.unstage())
}

func TestFaultRetriedCreateReturnsAnotherContext(t *testing.T) {
	h := newHost(t)
	request := createRequest("pvc", gib)
	first, err := h.CreateVolume(t.Context(), request)
	must(t, err)
	h.restart()
	second, err := h.CreateVolume(t.Context(), request)
	must(t, err)
	if first.String() != second.String() {
		t.Errorf("first answer\n%v\nsecond answer\n%v", first, second)
	}
	if len(second.GetVolume().GetVolumeContext()) == 0 || second.GetVolume().GetCapacityBytes() != gib {
		t.Errorf("the answer is incomplete: %v", second)
	}
}

func TestFaultStagingWithAnotherFileSystemCrashes(t *testing.T) {
	h := newHost(t)
	v := h.create("pvc")
	v.cap = capability(withFS("xfs"))
	refused(t, v.stage(), codes.FailedPrecondition, v.id, "ext4", "xfs")
	v.cap = capability(withFS("")) // what the volume has
	must(t, v.stage())
}

func TestFaultVolumeIDLeadsOutOfThePool(t *testing.T) {
	h := newHost(t)
	victim := h.path("victim", "disk.img")
	must(t, os.MkdirAll(filepath.Dir(victim), 0o700))
	writeFile(t, victim, "precious")
	for _, id := range []string{"../victim", "..", ".", "/", victim, "a/../../victim", "", strings.Repeat("x", 129), "a\x00b"} {
		v := volume{h: h, id: id, cap: capability()}
		_, expandErr := v.expand(t.Context(), h.target("pod"), gib)
		_, statsErr := v.stats(h.target("pod"))
		_, validateErr := h.ValidateVolumeCapabilities(t.Context(), &csi.ValidateVolumeCapabilitiesRequest{
			VolumeId: id, VolumeCapabilities: []*csi.VolumeCapability{capability()},
		})
		_, controllerExpandErr := h.ControllerExpandVolume(t.Context(), &csi.ControllerExpandVolumeRequest{
			VolumeId: id, CapacityRange: &csi.CapacityRange{RequiredBytes: gib},
		})
		// The staging path of the helper would be made of the id.
		_, stageErr := h.NodeStageVolume(t.Context(), &csi.NodeStageVolumeRequest{
			VolumeId: id, StagingTargetPath: h.path("staging"), VolumeCapability: v.cap,
		})
		_, unstageErr := h.NodeUnstageVolume(t.Context(), &csi.NodeUnstageVolumeRequest{
			VolumeId: id, StagingTargetPath: h.path("staging"),
		})
		_, publishErr := h.NodePublishVolume(t.Context(), &csi.NodePublishVolumeRequest{
			VolumeId: id, StagingTargetPath: h.path("staging"), TargetPath: h.target("pod"), VolumeCapability: v.cap,
		})
		for method, err := range map[string]error{
			"delete": v.delete(), "validate": validateErr, "controller expand": controllerExpandErr,
			"stage": stageErr, "unstage": unstageErr, "publish": publishErr,
			"unpublish": v.unpublish(h.target("pod")), "expand": expandErr, "stats": statsErr,
		} {
			t.Run(method+" "+id, func(t *testing.T) { refused(t, err, codes.InvalidArgument) })
		}
	}
	if got := readFile(t, victim, 8); got != "precious" {
		t.Errorf("the victim holds %q", got)
	}
}

func TestFaultVolumeInUseIsDeleted(t *testing.T) {
	h := newHost(t)
	v, target := h.create("pvc"), h.target("pod")
	writeFile(t, v.image(), "marker")
	must(t, v.stage())
	refused(t, v.delete(), codes.FailedPrecondition, "staged", h.staging(v.id))
	must(t, v.publish(target))
	refused(t, v.delete(), codes.FailedPrecondition)

	must(t, os.Remove(h.path("state", "staged", v.id+".json"))) // as if the staged state were lost
	refused(t, v.delete(), codes.FailedPrecondition, "published", target)
	s := h.runShim("sandbox1", nil)
	s.claim(target)
	refused(t, v.delete(), codes.FailedPrecondition, "sandbox1")
	if got := readFile(t, v.image(), 6); got != "marker" {
		t.Errorf("the volume holds %q", got)
	}

	s.release(target)
	must(t, v.unpublish(target))
	must(t, v.unstage())
	must(t, v.delete())
	if _, err := os.Stat(h.path("pool", v.id)); !os.IsNotExist(err) {
		t.Errorf("the backing file's folder is left behind: %v", err)
	}
}

func TestFaultImpossibleAccessIsAccepted(t *testing.T) {
	h := newHost(t)
	tests := map[string]struct {
		change func(*csi.VolumeCapability)
		words  string
	}{
		"block for many nodes": {func(c *csi.VolumeCapability) {
			asBlock(c)
			withMode(csi.VolumeCapability_AccessMode_MULTI_NODE_MULTI_WRITER)(c)
		}, "MULTI_NODE_MULTI_WRITER"},
		"many nodes, many writers":      {withMode(csi.VolumeCapability_AccessMode_MULTI_NODE_MULTI_WRITER), "MULTI_NODE_MULTI_WRITER"},
		"many nodes, one writer":        {withMode(csi.VolumeCapability_AccessMode_MULTI_NODE_SINGLE_WRITER), "MULTI_NODE_SINGLE_WRITER"},
		"many nodes, readers":           {withMode(csi.VolumeCapability_AccessMode_MULTI_NODE_READER_ONLY), "MULTI_NODE_READER_ONLY"},
		"no mode":                       {withMode(csi.VolumeCapability_AccessMode_UNKNOWN), "access mode"},
		"a mode nobody has heard of":    {withMode(99), "99"},
		"no access type":                {func(c *csi.VolumeCapability) { c.AccessType = nil }, "access type"},
		"a file system nobody can make": {withFS("ntfs"), "ntfs"},
		"a group that is none":          {withGroup("staff"), "staff"},
		"a negative group":              {withGroup("-1"), "-1"},
		"a mount option that is unsafe": {withFlags("bind"), "bind"},
	}
	v := h.create("pvc")
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			_, err := h.CreateVolume(t.Context(), createRequest("impossible", gib, test.change))
			refused(t, err, codes.InvalidArgument, test.words)
			v.cap = capability(test.change)
			refused(t, v.stage(), codes.InvalidArgument, test.words)
			refused(t, v.publish(h.target("pod")), codes.InvalidArgument, test.words)
			r, err := h.ValidateVolumeCapabilities(t.Context(), &csi.ValidateVolumeCapabilitiesRequest{
				VolumeId: v.id, VolumeCapabilities: []*csi.VolumeCapability{v.cap},
			})
			must(t, err)
			if r.GetConfirmed() != nil || !strings.Contains(r.GetMessage(), test.words) {
				t.Errorf("validated as %v", r)
			}
		})
	}
}

func TestFaultImpossibleSizeIsAccepted(t *testing.T) {
	h := newHost(t)
	capacity, err := h.GetCapacity(t.Context(), &csi.GetCapacityRequest{})
	must(t, err)
	tests := map[string]struct {
		size *csi.CapacityRange
		code codes.Code
	}{
		"more than the pool has":     {&csi.CapacityRange{RequiredBytes: capacity.GetAvailableCapacity() + gib}, codes.ResourceExhausted},
		"more than ext4 can have":    {&csi.CapacityRange{RequiredBytes: 1 << 62}, codes.OutOfRange},
		"zero":                       {&csi.CapacityRange{}, codes.InvalidArgument},
		"negative":                   {&csi.CapacityRange{RequiredBytes: -gib}, codes.InvalidArgument},
		"negative limit":             {&csi.CapacityRange{LimitBytes: -gib}, codes.InvalidArgument},
		"less than ext4 needs":       {&csi.CapacityRange{LimitBytes: 1 << 20}, codes.OutOfRange},
		"limit below what is needed": {&csi.CapacityRange{RequiredBytes: 2 * gib, LimitBytes: gib}, codes.OutOfRange},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			request := createRequest("impossible", 0)
			request.CapacityRange = test.size
			_, err := h.CreateVolume(t.Context(), request)
			refused(t, err, test.code)
		})
	}
	request := createRequest("default", 0)
	request.CapacityRange = nil
	made, err := h.CreateVolume(t.Context(), request)
	must(t, err)
	if made.GetVolume().GetCapacityBytes() != gib {
		t.Errorf("a volume of no particular size has %d bytes", made.GetVolume().GetCapacityBytes())
	}
}

func TestFaultCloneIsEmpty(t *testing.T) {
	h := newHost(t)
	v := h.create("source")
	request := createRequest("clone", gib)
	request.VolumeContentSource = &csi.VolumeContentSource{Type: &csi.VolumeContentSource_Volume{
		Volume: &csi.VolumeContentSource_VolumeSource{VolumeId: v.id},
	}}
	writeFile(t, v.image(), "marker")
	made, err := h.CreateVolume(t.Context(), request)
	must(t, err)
	if got := readFile(t, h.path("pool", made.GetVolume().GetVolumeId(), "disk.img"), 6); got != "marker" {
		t.Errorf("the clone holds %q", got)
	}
	request.VolumeContentSource = &csi.VolumeContentSource{Type: &csi.VolumeContentSource_Snapshot{
		Snapshot: &csi.VolumeContentSource_SnapshotSource{SnapshotId: "snap"},
	}}
	_, err = h.CreateVolume(t.Context(), request)
	refused(t, err, codes.NotFound, "snapshot")
}

func TestFaultUnknownVolumeIsAnEmptySuccess(t *testing.T) {
	h := newHost(t)
	target := h.target("pod")
	unknown := volume{h: h, id: h.driver.pool.ID("never made"), cap: capability()}
	for _, id := range []string{unknown.id, "pvc-of-another-driver"} {
		v := unknown
		v.id = id
		_, err := v.expand(t.Context(), target, gib)
		refused(t, err, codes.NotFound)
		_, err = v.stats(target)
		refused(t, err, codes.NotFound)
		refused(t, v.stage(), codes.NotFound)
		_, err = h.ControllerExpandVolume(t.Context(), &csi.ControllerExpandVolumeRequest{
			VolumeId: id, CapacityRange: &csi.CapacityRange{RequiredBytes: gib},
		})
		refused(t, err, codes.NotFound)
		_, err = h.ValidateVolumeCapabilities(t.Context(), &csi.ValidateVolumeCapabilitiesRequest{
			VolumeId: id, VolumeCapabilities: []*csi.VolumeCapability{v.cap},
		})
		refused(t, err, codes.NotFound)
	}
	_, err := h.CreateSnapshot(t.Context(), &csi.CreateSnapshotRequest{SourceVolumeId: unknown.id, Name: "snap"})
	refused(t, err, codes.NotFound)
	_, err = h.ControllerGetVolume(t.Context(), &csi.ControllerGetVolumeRequest{VolumeId: unknown.id})
	refused(t, err, codes.NotFound)
}

func TestFaultUnknownThingIsAnEmptySuccessInAnyOtherCall(t *testing.T) {
	h := newHost(t)
	id, ctx := h.driver.pool.ID("never made"), t.Context()
	snapshot, group := h.driver.pool.SnapshotID("never taken"), h.driver.pool.GroupID("never taken")
	from := func(source string) error {
		request := createRequest("copy", gib)
		request.VolumeContentSource = contentSource(source)
		_, err := h.CreateVolume(ctx, request)
		return err
	}
	_, attachErr := h.ControllerPublishVolume(ctx, &csi.ControllerPublishVolumeRequest{
		VolumeId: id, NodeId: "node-1", VolumeCapability: capability(),
	})
	_, modifyErr := h.ControllerModifyVolume(ctx, &csi.ControllerModifyVolumeRequest{
		VolumeId: id, MutableParameters: map[string]string{"katadirect.io/iops": "100"},
	})
	_, nodeHealthErr := h.NodeGetVolumeHealth(ctx, &csi.NodeGetVolumeHealthRequest{VolumeId: id})
	_, healthErr := h.ControllerGetVolumeHealth(ctx, &csi.ControllerGetVolumeHealthRequest{VolumeId: id})
	_, snapshotErr := h.GetSnapshot(ctx, &csi.GetSnapshotRequest{SnapshotId: snapshot})
	_, groupErr := h.GetVolumeGroupSnapshot(ctx, &csi.GetVolumeGroupSnapshotRequest{GroupSnapshotId: group})
	_, takeGroupErr := h.CreateVolumeGroupSnapshot(ctx, &csi.CreateVolumeGroupSnapshotRequest{Name: "group", SourceVolumeIds: []string{id}})
	for name, err := range map[string]error{
		"attach": attachErr, "modify": modifyErr, "health on the node": nodeHealthErr, "health": healthErr,
		"clone": from(id), "restore": from(snapshot), "get snapshot": snapshotErr, "get group": groupErr, "take group": takeGroupErr,
	} {
		t.Run(name, func(t *testing.T) { refused(t, err, codes.NotFound) })
	}
}

func TestFaultPodWithoutMachineSeesTheRawDisk(t *testing.T) {
	h := newHost(t)
	_, target := h.published("pvc")
	seen, err := os.ReadDir(target)
	must(t, err)
	if len(seen) != 0 {
		t.Errorf("a pod without a machine sees %v", seen)
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	must(t, err)
	if strings.Contains(string(mounts), h.dir) {
		t.Error("something of the volume is mounted on the host")
	}
}

func TestFaultRecordHasOptionsTheGuestCannotTake(t *testing.T) {
	h := newHost(t)
	v, target := h.published("pvc", withFlags("noatime", "rw"))
	record, err := h.store().Get(t.Context(), target)
	must(t, err)
	boot, err := directvolume.BootID()
	must(t, err)
	want := directvolume.Record{
		VolumeType: "directvol", Device: v.image(), FSType: "ext4", Options: []string{"noatime"},
		Metadata: map[string]string{
			"katadirect.io/volume-id": v.id, "katadirect.io/size-bytes": "1073741824",
			"katadirect.io/backing": "file", "katadirect.io/format": "if-blank", "katadirect.io/boot-id": boot,
		},
	}
	if !slices.Equal(record.Options, want.Options) {
		t.Errorf("the record has options %v, want %v", record.Options, want.Options)
	}
	for key := range record.Metadata {
		if record.Metadata[key] != want.Metadata[key] {
			t.Errorf("the record's %s is %q, want %q", key, record.Metadata[key], want.Metadata[key])
		}
	}
	if len(record.Metadata) != len(want.Metadata) || record.VolumeType != want.VolumeType ||
		record.Device != want.Device || record.FSType != want.FSType {
		t.Errorf("the record is %+v, want %+v", record, want)
	}
}
