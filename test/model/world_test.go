package model

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/katadirect/katadirect/pkg/directvolume"
	"github.com/katadirect/katadirect/test/csinode"
)

// callTimeout is far more than any call here takes. One that takes longer hangs.
const callTimeout = time.Minute

// world is a node: the driver's process, kubelet's folders, and sandboxes.
type world struct {
	*csinode.Driver
	csi.ControllerClient
	csi.NodeClient
	csi.GroupControllerClient

	ids       [allVolumes]string
	snaps     [allSnapshots]string // ids of the snapshots
	groups    [groupNames]string
	kills     int   // of the driver, with SIGKILL
	poolBytes int64 // what the empty pool has room for
	reflinks  bool  // the pool has them
	store     *directvolume.Store

	mu        sync.Mutex
	running   [sandboxes + 1]*sandbox // guarded by mu
	sandboxes int                     // made so far; guarded by mu
}

// sandbox is what stands for a pod's machine: it holds a lease, claims volumes, and serves the management socket.
type sandbox struct {
	id     string
	lease  *os.File
	server *http.Server
}

// process says where the driver runs.
type process int

const (
	here       process = iota // in the test's own process, which is quicker
	ownProcess                // in one of its own, which can be killed
)

func newWorld(t *testing.T, dir string, how process) *world {
	t.Helper()
	w := &world{}
	if how == here {
		w.Driver = csinode.StartHere(t, dir, "off")
	} else {
		w.Driver = csinode.Start(t, dir)
	}
	w.ControllerClient, w.NodeClient = csi.NewControllerClient(w.Conn), csi.NewNodeClient(w.Conn)
	w.GroupControllerClient = csi.NewGroupControllerClient(w.Conn)
	w.store = directvolume.NewStore(w.Records(), directvolume.WithSandboxes(w.leases()))
	for i := range w.ids {
		w.ids[i] = "kd-" + hash(csinode.NodeID, 8) + "-" + hash(name(i), 32)
	}
	for i := range snapshotNames {
		w.snaps[i] = "ks-" + hash(csinode.NodeID, 8) + "-" + hash(snapshotName(i), 32)
	}
	for g := range w.groups {
		w.groups[g] = "kg-" + hash(csinode.NodeID, 8) + "-" + hash(groupName(g), 32)
		for i := range volumeNames {
			w.snaps[memberOf(g, i)] = "ks-" + hash(csinode.NodeID, 8) + "-" + hash(groupName(g)+"\x00"+w.ids[i], 32)
		}
	}
	for target := range targets {
		if err := os.MkdirAll(filepath.Dir(w.target(target)), 0o750); err != nil {
			t.Fatal(err)
		}
	}
	var fs unix.Statfs_t
	if err := unix.Statfs(w.Pool(), &fs); err != nil {
		t.Fatal(err)
	}
	w.poolBytes = int64(fs.Bavail) * fs.Bsize
	t.Cleanup(func() {
		for i := 1; i <= sandboxes; i++ {
			w.end(i)
		}
	})
	return w
}

// name is the volume's name, and for an inline volume kubelet's handle.
func name(volume int) string {
	if isInline(volume) {
		return fmt.Sprintf("csi-%d", volume)
	}
	return fmt.Sprintf("pvc-%d", volume)
}

func groupName(n int) string { return fmt.Sprintf("group-%d", n) }

func snapshotName(n int) string { return fmt.Sprintf("snap-%d", n) }

func hash(s string, digits int) string {
	sum := sha256.Sum256([]byte(s))
	return hex.EncodeToString(sum[:])[:digits]
}

func (w *world) leases() directvolume.Sandboxes {
	return directvolume.Sandboxes{GoDir: w.Sandboxes(), RustDir: filepath.Join(w.Dir, "rust")}
}

func (w *world) target(n int) string {
	return filepath.Join(w.Dir, "pods", fmt.Sprint(n), "mount")
}

func (w *world) staging(volume, n int) string {
	return filepath.Join(w.Dir, "staging", fmt.Sprintf("%s-%d", name(volume), n))
}

func (w *world) image(volume int) string { return filepath.Join(w.Pool(), w.ids[volume], "disk.img") }

func capability(s step, mode csi.VolumeCapability_AccessMode_Mode) *csi.VolumeCapability {
	c := &csi.VolumeCapability{AccessMode: &csi.VolumeCapability_AccessMode{Mode: mode}}
	if s.raw {
		c.AccessType = &csi.VolumeCapability_Block{Block: &csi.VolumeCapability_BlockVolume{}}
	} else {
		c.AccessType = &csi.VolumeCapability_Mount{Mount: &csi.VolumeCapability_MountVolume{}}
	}
	return c
}

// do carries a step out. before is what the model says there is, which only a sandbox that writes has to know.
func (w *world) do(s step, before state) answer {
	ctx, cancel := context.WithTimeout(context.Background(), callTimeout)
	defer cancel()
	if !s.isCall() {
		err := w.act(ctx, s, before)
		return answer{code: codeOf(err), text: fmt.Sprint(err)}
	}
	got, err := w.call(ctx, s)
	got.code, got.text = status.Code(err), status.Convert(err).Message()
	return got
}

// call makes the step's RPC.
func (w *world) call(ctx context.Context, s step) (answer, error) {
	const writer = csi.VolumeCapability_AccessMode_SINGLE_NODE_SINGLE_WRITER
	id, size := w.ids[s.volume], &csi.CapacityRange{RequiredBytes: s.sizeBytes}
	if isInline(s.volume) {
		id = name(s.volume)
	}
	mode := writer
	if s.readOnly {
		mode = csi.VolumeCapability_AccessMode_SINGLE_NODE_READER_ONLY
	}
	switch s.kind {
	case create, clone, restore:
		r, err := w.CreateVolume(ctx, &csi.CreateVolumeRequest{
			Name: name(s.volume), CapacityRange: size, VolumeCapabilities: []*csi.VolumeCapability{capability(s, writer)},
			VolumeContentSource: w.source(s),
		})
		if err == nil && r.GetVolume().GetVolumeId() != id {
			err = status.Errorf(codes.Internal, "the volume's id is %s, not %s", r.GetVolume().GetVolumeId(), id)
		}
		return answer{sizeBytes: r.GetVolume().GetCapacityBytes()}, err
	case remove:
		_, err := w.DeleteVolume(ctx, &csi.DeleteVolumeRequest{VolumeId: id})
		return answer{}, err
	case stage:
		_, err := w.NodeStageVolume(ctx, &csi.NodeStageVolumeRequest{
			VolumeId: id, StagingTargetPath: w.staging(s.volume, s.staging), VolumeCapability: capability(s, mode),
		})
		return answer{}, err
	case unstage:
		_, err := w.NodeUnstageVolume(ctx, &csi.NodeUnstageVolumeRequest{VolumeId: id, StagingTargetPath: w.staging(s.volume, s.staging)})
		return answer{}, err
	case publish:
		_, err := w.NodePublishVolume(ctx, &csi.NodePublishVolumeRequest{
			VolumeId: id, StagingTargetPath: w.staging(s.volume, s.staging), TargetPath: w.target(s.target),
			VolumeCapability: capability(s, writer), Readonly: s.readOnly,
		})
		return answer{}, err
	case inline:
		_, err := w.NodePublishVolume(ctx, &csi.NodePublishVolumeRequest{
			VolumeId: id, TargetPath: w.target(s.target), VolumeCapability: capability(s, writer),
			VolumeContext: map[string]string{"csi.storage.k8s.io/ephemeral": "true", "katadirect.io/size": fmt.Sprint(s.sizeBytes)},
		})
		return answer{}, err
	case snapGroup:
		request := &csi.CreateVolumeGroupSnapshotRequest{Name: groupName(s.group)}
		for _, i := range s.sources() {
			request.SourceVolumeIds = append(request.SourceVolumeIds, w.ids[i])
		}
		r, err := w.CreateVolumeGroupSnapshot(ctx, request)
		return w.group(s.group, r.GetGroupSnapshot(), err)
	case getGroup:
		r, err := w.GetVolumeGroupSnapshot(ctx, &csi.GetVolumeGroupSnapshotRequest{GroupSnapshotId: w.groups[s.group]})
		return w.group(s.group, r.GetGroupSnapshot(), err)
	case dropGroup:
		_, err := w.DeleteVolumeGroupSnapshot(ctx, &csi.DeleteVolumeGroupSnapshotRequest{GroupSnapshotId: w.groups[s.group]})
		return answer{}, err
	case unpublish:
		_, err := w.NodeUnpublishVolume(ctx, &csi.NodeUnpublishVolumeRequest{VolumeId: id, TargetPath: w.target(s.target)})
		return answer{}, err
	case grow:
		r, err := w.NodeExpandVolume(ctx, &csi.NodeExpandVolumeRequest{VolumeId: id, VolumePath: w.target(s.target), CapacityRange: size})
		return answer{sizeBytes: r.GetCapacityBytes()}, err
	case askGrow:
		r, err := w.ControllerExpandVolume(ctx, &csi.ControllerExpandVolumeRequest{VolumeId: id, CapacityRange: size})
		return answer{sizeBytes: r.GetCapacityBytes()}, err
	case stats:
		_, err := w.NodeGetVolumeStats(ctx, &csi.NodeGetVolumeStatsRequest{VolumeId: id, VolumePath: w.target(s.target)})
		return answer{}, err
	case describe:
		r, err := w.ControllerGetVolume(ctx, &csi.ControllerGetVolumeRequest{VolumeId: id})
		return answer{sizeBytes: r.GetVolume().GetCapacityBytes()}, err
	case validate:
		_, err := w.ValidateVolumeCapabilities(ctx, &csi.ValidateVolumeCapabilitiesRequest{
			VolumeId: id, VolumeCapabilities: []*csi.VolumeCapability{capability(s, writer)},
		})
		return answer{}, err
	case health:
		r, err := w.NodeGetVolumeHealth(ctx, &csi.NodeGetVolumeHealthRequest{VolumeId: id})
		if bad := r.GetVolumeHealth().GetHealthStatuses(); err == nil && len(bad) > 0 {
			err = status.Errorf(codes.Internal, "a healthy volume is said to be %v", bad)
		}
		return answer{}, err
	case list:
		return w.list(ctx)
	case snap:
		r, err := w.CreateSnapshot(ctx, &csi.CreateSnapshotRequest{Name: snapshotName(s.snapshot), SourceVolumeId: id})
		if got := r.GetSnapshot(); err == nil && (got.GetSnapshotId() != w.snaps[s.snapshot] || got.GetSourceVolumeId() != id || !got.GetReadyToUse()) {
			err = status.Errorf(codes.Internal, "the snapshot is %v", got)
		}
		return answer{sizeBytes: r.GetSnapshot().GetSizeBytes()}, err
	case dropSnap:
		_, err := w.DeleteSnapshot(ctx, &csi.DeleteSnapshotRequest{SnapshotId: w.snaps[s.snapshot]})
		return answer{}, err
	case listSnaps:
		return w.listSnapshots(ctx)
	case attach:
		_, err := w.ControllerPublishVolume(ctx, &csi.ControllerPublishVolumeRequest{
			VolumeId: id, NodeId: csinode.NodeID, VolumeCapability: capability(s, writer), Readonly: s.readOnly,
		})
		return answer{}, err
	case detach:
		_, err := w.ControllerUnpublishVolume(ctx, &csi.ControllerUnpublishVolumeRequest{VolumeId: id, NodeId: csinode.NodeID})
		return answer{}, err
	case modify:
		name, value := s.limit()
		_, err := w.ControllerModifyVolume(ctx, &csi.ControllerModifyVolumeRequest{
			VolumeId: id, MutableParameters: map[string]string{"katadirect.io/" + name: fmt.Sprint(value)},
		})
		return answer{}, err
	case capacity:
		r, err := w.GetCapacity(ctx, &csi.GetCapacityRequest{})
		return answer{sizeBytes: r.GetAvailableCapacity()}, err
	}
	panic(s.kind)
}

func (w *world) source(s step) *csi.VolumeContentSource {
	switch s.kind {
	case clone:
		return &csi.VolumeContentSource{Type: &csi.VolumeContentSource_Volume{
			Volume: &csi.VolumeContentSource_VolumeSource{VolumeId: w.ids[s.other]}}}
	case restore:
		return &csi.VolumeContentSource{Type: &csi.VolumeContentSource_Snapshot{
			Snapshot: &csi.VolumeContentSource_SnapshotSource{SnapshotId: w.snaps[s.snapshot]}}}
	}
	return nil
}

// group reads the answer about a group: the sizes of its members by their volume.
func (w *world) group(n int, g *csi.VolumeGroupSnapshot, err error) (answer, error) {
	got := answer{listed: slices.Repeat([]int64{-1}, volumeNames)}
	if err == nil && g.GetGroupSnapshotId() != w.groups[n] {
		return got, status.Errorf(codes.Internal, "the group is %v", g)
	}
	for _, one := range g.GetSnapshots() {
		i := slices.Index(w.snaps[memberOf(n, 0):memberOf(n, volumeNames)], one.GetSnapshotId())
		if i < 0 || one.GetSourceVolumeId() != w.ids[i] || one.GetGroupSnapshotId() != w.groups[n] || !one.GetReadyToUse() {
			return got, status.Errorf(codes.Internal, "the group has the member %v", one)
		}
		got.listed[i] = one.GetSizeBytes()
	}
	return got, err
}

func (w *world) listSnapshots(ctx context.Context) (answer, error) {
	got := answer{}
	for range w.snaps {
		got.listed = append(got.listed, -1)
	}
	r, err := w.ListSnapshots(ctx, &csi.ListSnapshotsRequest{})
	for _, e := range r.GetEntries() {
		i := slices.Index(w.snaps[:], e.GetSnapshot().GetSnapshotId())
		if i < 0 {
			return got, status.Errorf(codes.Internal, "the list has a snapshot that nobody has taken: %v", e)
		}
		if e.GetSnapshot().GetReadyToUse() { // one in the making is none yet
			got.listed[i] = e.GetSnapshot().GetSizeBytes()
		}
	}
	return got, err
}

// list lists all volumes at once: pages would not be of one moment.
func (w *world) list(ctx context.Context) (answer, error) {
	got := answer{}
	for range w.ids {
		got.listed = append(got.listed, -1)
	}
	r, err := w.ListVolumes(ctx, &csi.ListVolumesRequest{})
	for _, e := range r.GetEntries() {
		known := false
		for i, id := range w.ids {
			if e.GetVolume().GetVolumeId() == id {
				got.listed[i], known = e.GetVolume().GetCapacityBytes(), true
			}
		}
		if !known {
			return got, status.Errorf(codes.Internal, "the list has a volume %s, which nobody has made", e.GetVolume().GetVolumeId())
		}
	}
	return got, err
}

// codeOf gives what the record store says the code that the driver would give it.
func codeOf(err error) codes.Code {
	switch {
	case err == nil:
		return codes.OK
	case errors.Is(err, directvolume.ErrNotFound):
		return codes.NotFound
	case errors.Is(err, directvolume.ErrClaimed):
		return codes.FailedPrecondition
	}
	return codes.Unknown
}

// act does what a sandbox does.
func (w *world) act(ctx context.Context, s step, before state) error {
	switch s.kind {
	case claim:
		box, err := w.run(s.sandbox)
		if err != nil {
			return err
		}
		_, err = w.store.Claim(ctx, w.target(s.target), box.id)
		return err
	case release:
		w.mu.Lock()
		box := w.running[s.sandbox]
		w.mu.Unlock()
		if box == nil {
			return nil
		}
		return w.store.Release(ctx, w.target(s.target), box.id)
	case die:
		w.end(s.sandbox)
		return nil
	case write:
		if v := before.volumes[s.volume]; v.writable() {
			return w.mark(s.volume, v.placeOf(s), s.mark)
		}
		return nil
	}
	panic(s.kind)
}

// mark writes as the machine does that has the volume: into the image.
func (w *world) mark(volume int, at int64, mark uint64) error {
	f, err := os.OpenFile(w.image(volume), os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteAt(binary.LittleEndian.AppendUint64(nil, mark), at)
	return errors.Join(err, f.Close())
}

// run starts a sandbox unless it runs. One that has died never comes back under its old id.
func (w *world) run(n int) (*sandbox, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.running[n] != nil {
		return w.running[n], nil
	}
	w.sandboxes++
	box := &sandbox{id: fmt.Sprintf("sandbox%d", w.sandboxes)}
	lease, err := w.leases().AcquireLease(box.id)
	if err != nil {
		return nil, err
	}
	listener, err := net.Listen("unix", w.leases().SocketPath(box.id))
	if err != nil {
		return nil, errors.Join(err, lease.Close())
	}
	box.lease, box.server = lease, &http.Server{Handler: management()}
	go box.server.Serve(listener)
	w.running[n] = box
	return box, nil
}

// end ends a sandbox as a crash does: its claims stay.
func (w *world) end(n int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if box := w.running[n]; box != nil {
		box.server.Close()
		box.lease.Close()
		os.RemoveAll(filepath.Dir(w.leases().SocketPath(box.id)))
		w.running[n] = nil
	}
}
