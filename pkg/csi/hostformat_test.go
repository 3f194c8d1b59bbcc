package csi

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc/codes"
)

// formatted asks for a volume that the host formats.
func formatted(name, fsType, options string) *csi.CreateVolumeRequest {
	r := createRequest(name, gib, withFS(fsType))
	r.Parameters = map[string]string{"katadirect.io/format": "host"}
	if options != "" {
		r.Parameters["katadirect.io/mkfsOptions"] = options
	}
	return r
}

// imageHas is what blkid says of an image.
func imageHas(t *testing.T, image, tag string) string {
	t.Helper()
	out, err := exec.Command("blkid", "-p", "-o", "value", "-s", tag, image).Output()
	if err != nil && len(out) > 0 {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(out))
}

func (h *host) poolEntries() (names []string) {
	h.t.Helper()
	all, err := os.ReadDir(h.path("pool"))
	must(h.t, err)
	for _, e := range all {
		if e.Name() != ".lock" {
			names = append(names, e.Name())
		}
	}
	return names
}

func TestTheHostFormatsAVolumeOnceAndBeforeItIsThere(t *testing.T) {
	h := newHost(t)
	for fsType, options := range map[string]string{"ext4": "-L data -i 65536", "xfs": "-L data", "btrfs": "-L data"} {
		request := formatted("pvc-"+fsType, fsType, options)
		made, err := h.CreateVolume(t.Context(), request)
		must(t, err)
		v := volume{h: h, id: made.GetVolume().GetVolumeId(), cap: request.GetVolumeCapabilities()[0]}
		if kind, label := imageHas(t, v.image(), "TYPE"), imageHas(t, v.image(), "LABEL"); kind != fsType || label != "data" {
			t.Errorf("the image holds %q with label %q, not %s", kind, label, fsType)
		}
		if size := fileSize(t, v.image()); size != gib {
			t.Errorf("%s: the image has %d bytes", fsType, size)
		}
		uuid := imageHas(t, v.image(), "UUID")
		h.restart()
		again, err := h.CreateVolume(t.Context(), request)
		must(t, err)
		if now := imageHas(t, v.image(), "UUID"); now != uuid || again.GetVolume().GetVolumeId() != v.id {
			t.Errorf("%s: a second create made another file system: %s, not %s", fsType, now, uuid)
		}
		must(t, v.stage())
		must(t, v.publish(h.target(fsType)))
	}
	if names := h.poolEntries(); len(names) != 3 {
		t.Errorf("the pool holds %v", names)
	}
}

func TestAVolumeThatTheHostCannotFormatIsNotMade(t *testing.T) {
	h := newHost(t)
	// Each option is good; together, or for this size, they are not.
	_, err := h.CreateVolume(t.Context(), formatted("pvc", "ext4", "-b 1024 -I 4096"))
	refused(t, err, codes.InvalidArgument, "-b 1024 -I 4096", "mkfs.ext4")
	_, err = h.CreateVolume(t.Context(), formatted("pvc", "ext4", "-F"))
	refused(t, err, codes.InvalidArgument, "-F")
	t.Setenv("PATH", t.TempDir())
	_, err = h.CreateVolume(t.Context(), formatted("pvc", "xfs", ""))
	refused(t, err, codes.FailedPrecondition, "mkfs.xfs", "install xfsprogs")
	if names := h.poolEntries(); len(names) != 0 {
		t.Errorf("refusals left %v", names)
	}
	h.create("pvc") // the name is free
}

func TestWhatACrashLeftOfFormattingIsNoVolume(t *testing.T) {
	h := newHost(t)
	request := formatted("pvc", "ext4", "")
	made, err := h.CreateVolume(t.Context(), request)
	must(t, err)
	id := made.GetVolume().GetVolumeId()
	h.stop()
	must(t, os.Rename(h.path("pool", id), h.path("pool", ".making-"+id)))
	writeFile(t, h.path("pool", ".making-"+id, "disk.img"), "half a file system")
	h.start()
	if names := h.poolEntries(); len(names) != 0 {
		t.Errorf("left after the crash: %v", names)
	}
	_, err = h.CreateVolume(t.Context(), request)
	must(t, err)
	if kind := imageHas(t, h.path("pool", id, "disk.img"), "TYPE"); kind != "ext4" {
		t.Errorf("the image holds %q", kind)
	}
}

func TestTheHostFormatsNothingThatIsNoNewFileSystem(t *testing.T) {
	h := newHost(t)
	block := createRequest("block", gib, asBlock)
	block.Parameters = map[string]string{"katadirect.io/format": "host"}
	made, err := h.CreateVolume(t.Context(), block)
	must(t, err)
	if kind := imageHas(t, h.path("pool", made.GetVolume().GetVolumeId(), "disk.img"), "TYPE"); kind != "" {
		t.Errorf("a raw block volume holds %q", kind)
	}
	source := h.create("source")
	data := bytes.Repeat([]byte("x"), 4096)
	writeFile(t, source.image(), string(data))
	clone := formatted("clone", "ext4", "")
	clone.VolumeContentSource = contentSource(source.id)
	made, err = h.CreateVolume(t.Context(), clone)
	must(t, err)
	if got := readFile(t, h.path("pool", made.GetVolume().GetVolumeId(), "disk.img"), len(data)); got != string(data) {
		t.Error("a clone was formatted")
	}
	bad := formatted("bad", "ext4", "")
	bad.Parameters["katadirect.io/format"] = "nobody"
	_, err = h.CreateVolume(t.Context(), bad)
	refused(t, err, codes.InvalidArgument, "nobody", "host")
}

func TestADiskThatIsFullWhileTheHostFormatsIsSaidToBe(t *testing.T) {
	for _, fsType := range supportedFileSystems {
		t.Run(fsType, func(t *testing.T) {
			image := filepath.Join(smallDisk(t, 64<<10, 10), "disk.img")
			writeFile(t, image, "")
			must(t, os.Truncate(image, gib))
			refused(t, toStatus(formatImage(t.Context(), image, fsType, "")), codes.ResourceExhausted, "mkfs."+fsType)
		})
	}
}
