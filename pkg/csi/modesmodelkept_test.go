package csi

import (
	"bytes"
	"fmt"
	"os"
	"testing"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/katadirect/katadirect/internal/capabilities"
	"github.com/katadirect/katadirect/pkg/csi/mode"
	"github.com/katadirect/katadirect/pkg/directvolume"
)

// What the model of all modes says of sizes, limits and snapshots.

var modeSizes = []int64{16 << 20, 24 << 20, 40 << 20}

func (w *modesWorld) expand(m *moded, target int, sizeBytes int64) codes.Code {
	_, onHost := m.host[target]
	if !m.exists || !onHost && m.machine != target {
		return codes.NotFound
	}
	m.sizeBytes = max(m.sizeBytes, sizeBytes)
	switch {
	case !onHost || m.fsBytes == m.sizeBytes:
	case !w.growsExt4:
		return codes.FailedPrecondition // the image has grown, and what is in it lags behind
	default:
		m.fsBytes = m.sizeBytes
	}
	return codes.OK
}

func (m *moded) modify(iops uint64) codes.Code {
	switch {
	case !m.exists:
		return codes.NotFound
	case iops != 0 && m.mode == mode.Host:
		return codes.InvalidArgument
	case iops != 0 && len(m.host) > 0:
		return codes.FailedPrecondition
	}
	m.iops = iops
	return codes.OK
}

func (w *modesWorld) snapshot(name, source int) codes.Code {
	m, s := w.volumes[source], w.snapshots[name]
	switch {
	case s != nil && s.source != source:
		return codes.AlreadyExists
	case s != nil:
	case !m.exists:
		return codes.NotFound
	default:
		w.snapshots[name] = &modedSnapshot{source, m.sizeBytes, m.content, m.trusted}
	}
	return codes.OK
}

// takeSnapshot takes a snapshot of a volume, or asks for the one there is, and looks whether it is what the model says.
func (w *modesWorld) takeSnapshot(name int, v volume) error {
	r, err := w.h.CreateSnapshot(w.h.t.Context(), &csi.CreateSnapshotRequest{Name: fmt.Sprint("snapshot-", name), SourceVolumeId: v.id,
		Parameters: map[string]string{parameterFreezeLimit: "1m"}}) // for as long as the disk takes
	if err != nil {
		return err
	}
	id, want := r.GetSnapshot().GetSnapshotId(), w.snapshots[name]
	data, err := os.ReadFile(w.h.path("pool", id, "disk.img"))
	switch {
	case err != nil:
		return err
	case want == nil || !r.GetSnapshot().GetReadyToUse() || int64(len(data)) != want.sizeBytes || r.GetSnapshot().GetSizeBytes() != want.sizeBytes:
		return status.Errorf(codes.Internal, "the snapshot is %v, with %d bytes", r, len(data))
	case !bytes.Contains(data, []byte(want.content)):
		return status.Errorf(codes.Internal, "the snapshot does not hold %q", want.content)
	case w.isMarked(id) != want.trusted:
		return status.Errorf(codes.Internal, "the snapshot is marked as the host's own: %t", !want.trusted)
	}
	return nil
}

func (w *modesWorld) dropSnapshot(name int) error {
	_, err := w.h.DeleteSnapshot(w.h.t.Context(), &csi.DeleteSnapshotRequest{SnapshotId: w.h.driver.pool.SnapshotID(fmt.Sprint("snapshot-", name))})
	return err
}

func (w *modesWorld) isMarked(id string) bool {
	_, err := os.Lstat(w.h.path("pool", id, "host-only"))
	return err == nil
}

// auditKept looks at what the pool keeps of a volume, and what its record says of that.
func (w *modesWorld) auditKept(t *testing.T, i int) {
	t.Helper()
	m, v := w.volumes[i], w.volume(i)
	if !m.exists {
		return
	}
	if size := fileSize(t, v.image()); size != m.sizeBytes {
		t.Fatalf("%s has %d bytes, and should have %d", m.mode, size, m.sizeBytes)
	}
	if w.isMarked(v.id) != m.trusted {
		t.Fatalf("%s is marked as the host's own: %t", m.mode, !m.trusted)
	}
	want := directvolume.Limits{IOPS: m.iops}
	if has, err := w.h.driver.pool.Limits(t.Context(), v.id); err != nil || has.Limits != want {
		t.Fatalf("%s has the limits %q, %v, and should have %q", m.mode, has, err, want)
	}
	if m.machine == nowhere {
		return
	}
	if said := w.h.recorded(w.h.target(fmt.Sprint(m.machine))); said != want.String() {
		t.Fatalf("the record of %s has the limits %q, and should have %q", m.mode, said, want)
	}
}

// maySetResources reports whether this process has CAP_SYS_RESOURCE, without which the kernel grows no ext4 in use.
func maySetResources(t *testing.T) bool {
	t.Helper()
	may, err := capabilities.Has(unix.CAP_SYS_RESOURCE)
	must(t, err)
	return may
}
