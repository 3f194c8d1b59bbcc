package csi

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"

	"github.com/katadirect/katadirect/pkg/csi/pool"
	"github.com/katadirect/katadirect/pkg/directvolume"
)

// inline is a volume in a pod's spec, as kubelet calls for it.
type inline struct {
	h      *host
	handle string
	target string
}

// inline makes what kubelet makes before it calls: the pod's folders, with its notes about the volume.
func (h *host) inline(pod string) inline {
	h.t.Helper()
	target := h.path("kubelet/pods", pod, "volumes/kubernetes.io~csi/scratch/mount")
	must(h.t, os.MkdirAll(filepath.Dir(target), 0o750))
	must(h.t, os.WriteFile(filepath.Join(filepath.Dir(target), "vol_data.json"), []byte("{}"), 0o600))
	return inline{h: h, handle: "csi-" + strings.Repeat("0", 64-len(pod)) + pod, target: target}
}

func (i inline) request(attributes ...string) *csi.NodePublishVolumeRequest {
	context := map[string]string{
		ephemeralKey: "true", "csi.storage.k8s.io/pod.name": "pod", "csi.storage.k8s.io/pod.uid": "uid",
		"csi.storage.k8s.io/pod.namespace": "default", "csi.storage.k8s.io/serviceAccount.name": "default",
	}
	for n := 0; n < len(attributes); n += 2 {
		context[attributes[n]] = attributes[n+1]
	}
	return &csi.NodePublishVolumeRequest{
		VolumeId: i.handle, TargetPath: i.target, VolumeContext: context,
		VolumeCapability: capability(withMode(csi.VolumeCapability_AccessMode_SINGLE_NODE_WRITER), withFS("")),
	}
}

func (i inline) publish(attributes ...string) error {
	_, err := i.h.NodePublishVolume(i.h.t.Context(), i.request(attributes...))
	return err
}

func (i inline) unpublish() error {
	_, err := i.h.NodeUnpublishVolume(i.h.t.Context(), &csi.NodeUnpublishVolumeRequest{VolumeId: i.handle, TargetPath: i.target})
	return err
}

// volume is what the pool has of it.
func (i inline) volume() (pool.Volume, error) {
	return i.h.driver.pool.Get(i.h.t.Context(), i.h.driver.pool.ID(i.handle))
}

// gone checks that nothing is left of it.
func (i inline) gone() {
	i.h.t.Helper()
	if v, err := i.volume(); !errors.Is(err, pool.ErrNotFound) {
		i.h.t.Errorf("the volume is still there: %+v, %v", v, err)
	}
	if _, err := os.Lstat(i.target); !errors.Is(err, fs.ErrNotExist) {
		i.h.t.Errorf("the target path is still there: %v", err)
	}
	if left, err := i.h.store().List(i.h.t.Context()); err != nil || len(left) > 0 {
		i.h.t.Errorf("records left: %v, %v", left, err)
	}
}

func TestAnInlineVolumeLivesAsLongAsItsPod(t *testing.T) {
	h := newHost(t)
	i := h.inline("pod")
	must(t, i.publish(parameterSize, "2Gi", parameterFSType, "xfs", parameterMkfsOptions, "-L scratch"))
	v, err := i.volume()
	must(t, err)
	if v.SizeBytes != 2*gib || v.FSType != "xfs" {
		t.Errorf("the volume is %+v", v)
	}
	record, err := h.store().Get(t.Context(), i.target)
	if err != nil || record.Device != v.ImagePath || record.FSType != "xfs" ||
		record.Metadata[directvolume.MetadataVolumeID] != v.ID || record.Metadata[directvolume.MetadataMkfsOptions] != "-L scratch" || record.Metadata[directvolume.MetadataFormat] != directvolume.FormatIfBlank {
		t.Errorf("the record is %+v, %v", record, err)
	}
	// Whatever comes in its life, its data is the pod's.
	writeFile(t, v.ImagePath, "content")
	must(t, i.publish(parameterSize, "2Gi", parameterFSType, "xfs", parameterMkfsOptions, "-L scratch"))
	h.restart()
	must(t, os.RemoveAll(h.path("records"))) // and the node
	h.restart()
	must(t, i.publish(parameterSize, "2Gi", parameterFSType, "xfs", parameterMkfsOptions, "-L scratch"))
	if got := readFile(t, v.ImagePath, 7); got != "content" {
		t.Errorf("after restarts it holds %q", got)
	}
	usage, err := h.NodeGetVolumeStats(t.Context(), &csi.NodeGetVolumeStatsRequest{VolumeId: i.handle, VolumePath: i.target})
	if err != nil || usage.GetUsage()[0].GetTotal() != 2*gib {
		t.Errorf("stats: %v, %v", usage, err)
	}
	healthy, err := h.NodeGetVolumeHealth(t.Context(), &csi.NodeGetVolumeHealthRequest{VolumeId: i.handle, VolumePublishPath: i.target})
	if err != nil || healthy.GetVolumeHealth().GetVolumeId() != i.handle {
		t.Errorf("health: %v, %v", healthy, err)
	}
	for range 2 {
		must(t, i.unpublish())
	}
	i.gone()
}

func TestAnInlineVolumeInAMachineIsNotDeleted(t *testing.T) {
	h := newHost(t)
	i := h.inline("pod")
	must(t, i.publish())
	v, err := i.volume()
	must(t, err)
	s := h.runShim("sandbox1", nil)
	s.claim(i.target)
	refused(t, i.unpublish(), codes.FailedPrecondition, "sandbox1")
	// A machine that no record speaks of.
	s.release(i.target)
	image, err := os.OpenFile(v.ImagePath, os.O_RDWR, 0)
	must(t, err)
	must(t, unix.FcntlFlock(image.Fd(), unix.F_OFD_SETLK, &unix.Flock_t{Type: unix.F_RDLCK, Start: 100, Len: 1}))
	refused(t, i.unpublish(), codes.FailedPrecondition)
	if _, err := i.volume(); err != nil {
		t.Errorf("the volume: %v", err)
	}
	must(t, image.Close())
	must(t, i.unpublish())
	i.gone()
}

// The one mark that lets NodeUnpublishVolume delete is the volume's own, for that very path.
func TestUnpublishDeletesInlineVolumesOnly(t *testing.T) {
	h := newHost(t)
	i, other := h.inline("pod"), h.inline("other")
	must(t, i.publish())
	v, err := i.volume()
	must(t, err)
	// The same volume at a path that is another pod's.
	_, err = h.NodeUnpublishVolume(t.Context(), &csi.NodeUnpublishVolumeRequest{VolumeId: i.handle, TargetPath: other.target})
	must(t, err)
	if _, err := os.Stat(v.ImagePath); err != nil {
		t.Errorf("unpublished at another path: %v", err)
	}
	// A claim's volume that happens to have such a name, and one that says it is inline.
	claimed := h.create(other.handle)
	_, err = h.NodeUnpublishVolume(t.Context(), &csi.NodeUnpublishVolumeRequest{VolumeId: other.handle, TargetPath: other.target})
	must(t, err)
	if _, err := os.Stat(claimed.image()); err != nil {
		t.Errorf("a claim's volume: %v", err)
	}
	refused(t, other.publish(), codes.AlreadyExists)
	marked := createRequest("marked", gib)
	marked.Parameters = map[string]string{parameterInline: "/target"}
	_, err = h.CreateVolume(t.Context(), marked)
	refused(t, err, codes.InvalidArgument, parameterInline)
	create := createRequest(i.handle, gib)
	_, err = h.CreateVolume(t.Context(), create)
	refused(t, err, codes.AlreadyExists)
	must(t, i.unpublish())
}

func TestInlineVolumesAreRefusedByNameWhenTheyCannotBe(t *testing.T) {
	h := newHost(t)
	i := h.inline("pod")
	tests := map[string]struct {
		attributes []string
		change     func(*csi.NodePublishVolumeRequest)
		code       codes.Code
		word       string
	}{
		"a size that is none":     {[]string{parameterSize, "big"}, nil, codes.InvalidArgument, `"big"`},
		"a size of nothing":       {[]string{parameterSize, "0"}, nil, codes.InvalidArgument, parameterSize},
		"a negative size":         {[]string{parameterSize, "-1Gi"}, nil, codes.InvalidArgument, parameterSize},
		"too small":               {[]string{parameterSize, "1"}, nil, codes.OK, ""},
		"larger than any":         {[]string{parameterSize, "1Ei"}, nil, codes.OutOfRange, "ext4"},
		"larger than the pool":    {[]string{parameterSize, "15Ti"}, nil, codes.ResourceExhausted, "room"},
		"an unknown attribute":    {[]string{"size", "1Gi"}, nil, codes.InvalidArgument, `"size"`},
		"the operator's":          {[]string{parameterOvercommit, "2"}, nil, codes.InvalidArgument, parameterOvercommit},
		"the host's formatting":   {[]string{parameterFormat, formatHost}, nil, codes.InvalidArgument, parameterFormat},
		"unsafe mkfs options":     {[]string{parameterMkfsOptions, "-F"}, nil, codes.InvalidArgument, parameterMkfsOptions},
		"the mark":                {[]string{parameterInline, "/elsewhere"}, nil, codes.InvalidArgument, parameterInline},
		"an unknown file system":  {[]string{parameterFSType, "ntfs"}, nil, codes.InvalidArgument, "ntfs"},
		"two file systems":        {[]string{parameterFSType, "xfs"}, func(r *csi.NodePublishVolumeRequest) { withFS("ext4")(r.VolumeCapability) }, codes.InvalidArgument, "xfs"},
		"read-only":               {nil, func(r *csi.NodePublishVolumeRequest) { r.Readonly = true }, codes.InvalidArgument, "read-only"},
		"a raw block volume":      {nil, func(r *csi.NodePublishVolumeRequest) { asBlock(r.VolumeCapability) }, codes.InvalidArgument, "generic ephemeral"},
		"a volume of the pool":    {nil, func(r *csi.NodePublishVolumeRequest) { r.VolumeId = h.create("pvc").id }, codes.InvalidArgument, "handle"},
		"no place for the target": {nil, func(r *csi.NodePublishVolumeRequest) { r.TargetPath = h.path("nowhere/mount") }, codes.FailedPrecondition, "nowhere"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			r := i.request(test.attributes...)
			if test.change != nil {
				test.change(r)
			}
			_, err := h.NodePublishVolume(t.Context(), r)
			if test.code == codes.OK {
				must(t, err)
				must(t, i.unpublish())
			} else {
				refused(t, err, test.code, test.word)
			}
			i.gone()
		})
	}
}

func TestSizesOfInlineVolumesAreWrittenAsInClaims(t *testing.T) {
	for text, want := range map[string]int64{
		"1": 1, "4096": 4096, "5Gi": 5 << 30, "5G": 5e9, "100Mi": 100 << 20, "2k": 2000, "2Ki": 2048, "7Ei": 7 << 60,
		"": 0, "0": 0, "-1": 0, "+1": 0, "1.5Gi": 0, "Gi": 0, "5gb": 0, "5GiB": 0, "5 Gi": 0, "8Ei": 0, "9223372036854775808": 0, "5ii": 0, "5K": 0, "0x10": 0,
	} {
		if got, ok := parseQuantity(text); got != want || ok != (want > 0) {
			t.Errorf("%q is %d, %t; want %d", text, got, ok, want)
		}
	}
}

func TestAnInlineVolumeIsPublishedAgainAsItWas(t *testing.T) {
	h := newHost(t)
	i := h.inline("pod")
	must(t, i.publish(parameterSize, "2Gi"))
	refused(t, i.publish(parameterSize, "3Gi"), codes.AlreadyExists)
	refused(t, i.publish(parameterSize, "2Gi", parameterFSType, "xfs"), codes.AlreadyExists)
	if v, err := i.volume(); err != nil || v.SizeBytes != 2*gib {
		t.Errorf("after refused calls it is %+v, %v", v, err)
	}
	must(t, i.unpublish())
}

// What a driver finds at start of pods whose last call never came.
func TestInlineVolumesOfVanishedPodsAreRemovedAtStart(t *testing.T) {
	for name, test := range map[string]struct {
		meanwhile func(h *host, i inline)
		goes      bool
	}{
		"the pod's folder is gone": {func(h *host, i inline) { must(h.t, os.RemoveAll(h.path("kubelet/pods/vanished"))) }, true},
		"kubelet's notes are there": {func(h *host, i inline) {
			must(h.t, os.Remove(i.target))
		}, false},
		"kubelet's folder is gone": {func(h *host, i inline) { must(h.t, os.RemoveAll(h.path("kubelet"))) }, false},
		"kubelet's folder is empty": {func(h *host, i inline) {
			must(h.t, errors.Join(os.RemoveAll(h.path("kubelet/pods")), os.Mkdir(h.path("kubelet/pods"), 0o750)))
		}, false},
		"a machine has it": {func(h *host, i inline) {
			must(h.t, os.RemoveAll(h.path("kubelet/pods/vanished")))
			v, err := i.volume()
			must(h.t, err)
			image, err := os.OpenFile(v.ImagePath, os.O_RDWR, 0)
			must(h.t, err)
			h.t.Cleanup(func() { image.Close() })
			must(h.t, unix.FcntlFlock(image.Fd(), unix.F_OFD_SETLK, &unix.Flock_t{Type: unix.F_RDLCK, Start: 100, Len: 1}))
		}, false},
	} {
		t.Run(name, func(t *testing.T) {
			h := newHost(t)
			i, living, claimed := h.inline("vanished"), h.inline("living"), h.create("pvc")
			must(t, i.publish())
			must(t, living.publish())
			must(t, os.Rename(h.path("records"), h.path("records of the last boot")))
			test.meanwhile(h, i)
			h.restart()
			if _, err := i.volume(); errors.Is(err, pool.ErrNotFound) != test.goes {
				t.Errorf("after the start: %v", err)
			}
			if _, err := living.volume(); err != nil {
				t.Errorf("a living pod's: %v", err)
			}
			if _, err := os.Stat(claimed.image()); err != nil {
				t.Errorf("a claim's: %v", err)
			}
		})
	}
	t.Run("a record is left", func(t *testing.T) {
		h := newHost(t)
		i, _ := h.inline("vanished"), h.inline("living")
		must(t, i.publish())
		s := h.runShim("sandbox1", nil)
		s.claim(i.target)
		must(t, os.RemoveAll(h.path("kubelet/pods/vanished")))
		h.restart()
		if _, err := i.volume(); err != nil || !strings.Contains(h.log.String(), "sandbox1") {
			t.Errorf("a living sandbox has it: %v", err)
		}
		s.die()
		h.restart()
		i.gone()
	})
}
