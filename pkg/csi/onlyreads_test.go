package csi

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
)

const readerOnly = csi.VolumeCapability_AccessMode_SINGLE_NODE_READER_ONLY

// kubelet stages and publishes with the same capability, unless the PersistentVolume is changed while pods have it.
func TestAVolumeThatIsStagedReadOnlyIsNotPublishedToWrite(t *testing.T) {
	for name, kind := range map[string]struct {
		parameters map[string]string
		change     []func(*csi.VolumeCapability)
		pod        string
	}{
		"direct": {inMode("direct"), nil, "machine"},
		"host":   {inMode("host"), nil, "plain"},
		"raw":    {nil, []func(*csi.VolumeCapability){asBlock}, "machine"},
	} {
		t.Run(name, func(t *testing.T) {
			h, _ := newModesHost(t)
			v, target := h.createIn("data", kind.parameters, kind.change...), h.target("pod")
			if name == "host" { // a blank one cannot be read
				must(t, v.stage())
				must(t, v.publishFor(kind.pod, target))
				must(t, v.unpublish(target))
				must(t, v.unstage())
			}
			writer := v.cap
			v.cap = capability(append(slices.Clone(kind.change), withMode(readerOnly))...)
			must(t, v.stage())
			reader := v.cap
			v.cap = writer
			refused(t, v.publishFor(kind.pod, target), codes.FailedPrecondition, "staged read-only", h.staging(v.id))
			if _, err := os.Lstat(target); !errors.Is(err, os.ErrNotExist) {
				t.Errorf("the refused target path is there: %v", err)
			}
			must(t, v.publishFor(kind.pod, target, func(r *csi.NodePublishVolumeRequest) { r.Readonly = true }))
			must(t, v.unpublish(target))
			v.cap = reader
			must(t, v.publishFor(kind.pod, target))
			must(t, v.unpublish(target))
			must(t, v.unstage())
			v.cap = writer
			must(t, v.stage())
			must(t, v.publishFor(kind.pod, target))
			must(t, v.unpublish(target))
			must(t, v.unstage())
		})
	}
}

// csi.readOnly of a PersistentVolume reaches the driver only when it attaches the volume.
func TestAVolumeThatIsAttachedReadOnlyCannotBeWritten(t *testing.T) {
	h, _ := newModesHost(t)
	published := func(name string, parameters map[string]string, pod string, change ...func(*csi.VolumeCapability)) (volume, string) {
		v, target := h.createIn(name, parameters, change...), h.target(name)
		must(t, v.stage())
		must(t, v.publishFor(pod, target)) // to be formatted
		must(t, v.unpublish(target))
		must(t, v.unstage())
		must(t, v.attach("node-1", true))
		h.restart()
		must(t, v.stage())
		must(t, v.publishFor(pod, target))
		must(t, v.publishFor(pod, target)) // again
		return v, target
	}
	v, target := published("direct", inMode("direct"), "machine")
	record, err := h.store().Get(t.Context(), target)
	if err != nil || !record.ReadOnly() {
		t.Errorf("the record is %+v, %v", record, err)
	}
	must(t, v.unpublish(target))
	must(t, v.unstage())

	v, target = published("host", inMode("host"), "plain")
	if err := os.WriteFile(filepath.Join(target, "file"), nil, 0o600); !errors.Is(err, unix.EROFS) {
		t.Errorf("written to on the host: %v", err)
	}
	must(t, v.unpublish(target))
	must(t, v.unstage())

	v, target = published("raw", nil, "machine", asBlock)
	device, err := os.OpenFile(target, os.O_RDWR, 0)
	if err == nil {
		_, err = device.WriteAt(make([]byte, 4096), 0)
		err = errors.Join(err, device.Sync(), device.Close())
	}
	if !errors.Is(err, unix.EPERM) && !errors.Is(err, unix.EACCES) {
		t.Errorf("the device is written to: %v", err)
	}
	must(t, v.unpublish(target))
	must(t, v.unstage())
}
