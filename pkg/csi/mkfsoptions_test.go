package csi

import (
	"testing"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc/codes"

	"github.com/katadirect/katadirect/pkg/directvolume"
)

func TestMkfsOptionsReachTheRecordAndAreKept(t *testing.T) {
	h := newHost(t)
	request := createRequest("pvc", gib, withFS("xfs"))
	request.Parameters = map[string]string{"katadirect.io/mkfsOptions": "-i size=1024 -m reflink=0"}
	made, err := h.CreateVolume(t.Context(), request)
	must(t, err)
	v := volume{h: h, id: made.GetVolume().GetVolumeId(), context: made.GetVolume().GetVolumeContext(), cap: capability(withFS("xfs"))}
	h.restart()
	must(t, v.stage())
	must(t, v.publish(h.target("pod")))
	record, err := h.store().Get(t.Context(), h.target("pod"))
	must(t, err)
	if got := record.Metadata["katadirect.io/mkfs-options"]; got != "-i size=1024 -m reflink=0" {
		t.Errorf("the record's mkfs options are %q", got)
	}

	request.Parameters["katadirect.io/mkfsOptions"] = "-i size=512"
	_, err = h.CreateVolume(t.Context(), request)
	refused(t, err, codes.AlreadyExists, "size=512", "size=1024")
	delete(request.Parameters, "katadirect.io/mkfsOptions")
	_, err = h.CreateVolume(t.Context(), request)
	refused(t, err, codes.AlreadyExists, "size=1024")
}

// Who may not write may not format, and needs no options for it.
func TestMkfsOptionsAreNotInTheRecordOfAReader(t *testing.T) {
	h := newHost(t)
	request := createRequest("pvc", gib)
	request.Parameters = map[string]string{"katadirect.io/mkfsOptions": "-i 8192"}
	made, err := h.CreateVolume(t.Context(), request)
	must(t, err)
	v := volume{h: h, id: made.GetVolume().GetVolumeId(), cap: capability(withMode(csi.VolumeCapability_AccessMode_SINGLE_NODE_READER_ONLY))}
	must(t, v.stage())
	must(t, v.publish(h.target("pod")))
	record, err := h.store().Get(t.Context(), h.target("pod"))
	must(t, err)
	for _, key := range []string{directvolume.MetadataFormat, directvolume.MetadataMkfsOptions} {
		if value, found := record.Metadata[key]; found {
			t.Errorf("the record says %s %q", key, value)
		}
	}
}

func TestMkfsOptionsAreCheckedForTheVolumesFileSystem(t *testing.T) {
	h := newHost(t)
	for name, test := range map[string]struct {
		fsType, options string
		code            codes.Code
		word            string
	}{
		"ext4's":            {"ext4", "-i 65536 -m 1", codes.OK, ""},
		"btrfs's":           {"btrfs", "-n 32k", codes.OK, ""},
		"the default's":     {"", "-i 65536", codes.OK, ""},
		"xfs's on ext4":     {"ext4", "-i size=512", codes.InvalidArgument, "size=512"},
		"xfs's on a btrfs":  {"btrfs", "-i size=512", codes.InvalidArgument, "-i"},
		"force":             {"ext4", "-F", codes.InvalidArgument, "-F"},
		"another device":    {"xfs", "-l logdev=/dev/sda", codes.InvalidArgument, "logdev"},
		"without a journal": {"ext4", "-O ^has_journal", codes.InvalidArgument, "^has_journal"},
	} {
		t.Run(name, func(t *testing.T) {
			request := createRequest(name, gib, withFS(test.fsType))
			request.Parameters = map[string]string{"katadirect.io/mkfsOptions": test.options}
			made, err := h.CreateVolume(t.Context(), request)
			refused(t, err, test.code, test.word)
			// GetCapacity leaves refusals to CreateVolume.
			if room, err := h.GetCapacity(t.Context(), &csi.GetCapacityRequest{
				VolumeCapabilities: request.GetVolumeCapabilities(), Parameters: request.GetParameters(),
			}); err != nil || room.GetAvailableCapacity() == 0 {
				t.Errorf("capacity: %v, %v", room, err)
			}
			if test.code != codes.OK {
				return
			}
			// A caller that leaves the file system to the volume is told about the volume's.
			r, err := h.ValidateVolumeCapabilities(t.Context(), &csi.ValidateVolumeCapabilitiesRequest{
				VolumeId:           made.GetVolume().GetVolumeId(),
				VolumeCapabilities: []*csi.VolumeCapability{capability(withFS(""))}, Parameters: request.GetParameters(),
			})
			if err != nil || r.GetConfirmed() == nil {
				t.Errorf("%v, %v", r, err)
			}
		})
	}
}
