package kubelet

import (
	"context"
	"path/filepath"
	"strings"

	"github.com/container-storage-interface/spec/lib/go/csi"
)

// Snapshot takes a snapshot of the volume, as external-snapshotter does: it calls again until the snapshot is ready.
func (v *Volume) Snapshot(ctx context.Context, name string) (*csi.Snapshot, error) {
	var s *csi.Snapshot
	err := call(ctx, "CreateSnapshot", func(ctx context.Context) error {
		for {
			r, err := v.node.controller.CreateSnapshot(ctx, &csi.CreateSnapshotRequest{Name: name, SourceVolumeId: v.ID})
			if s = r.GetSnapshot(); err != nil || s.GetReadyToUse() {
				return err
			}
		}
	})
	return s, err
}

// DeleteSnapshot deletes a snapshot.
func (n *Node) DeleteSnapshot(ctx context.Context, id string) error {
	return call(ctx, "DeleteSnapshot", func(ctx context.Context) error {
		_, err := n.controller.DeleteSnapshot(ctx, &csi.DeleteSnapshotRequest{SnapshotId: id})
		return err
	})
}

// GroupSnapshot takes snapshots of the volumes at one moment.
func (n *Node) GroupSnapshot(ctx context.Context, name string, volumes ...*Volume) (*csi.VolumeGroupSnapshot, error) {
	request := &csi.CreateVolumeGroupSnapshotRequest{Name: name}
	for _, v := range volumes {
		request.SourceVolumeIds = append(request.SourceVolumeIds, v.ID)
	}
	var g *csi.VolumeGroupSnapshot
	err := call(ctx, "CreateVolumeGroupSnapshot", func(ctx context.Context) error {
		r, err := csi.NewGroupControllerClient(n.conn).CreateVolumeGroupSnapshot(ctx, request)
		g = r.GetGroupSnapshot()
		return err
	})
	return g, err
}

// DeleteGroupSnapshot deletes a group with its snapshots.
func (n *Node) DeleteGroupSnapshot(ctx context.Context, g *csi.VolumeGroupSnapshot) error {
	request := &csi.DeleteVolumeGroupSnapshotRequest{GroupSnapshotId: g.GetGroupSnapshotId()}
	for _, s := range g.GetSnapshots() {
		request.SnapshotIds = append(request.SnapshotIds, s.GetSnapshotId())
	}
	return call(ctx, "DeleteVolumeGroupSnapshot", func(ctx context.Context) error {
		_, err := csi.NewGroupControllerClient(n.conn).DeleteVolumeGroupSnapshot(ctx, request)
		return err
	})
}

// Image is the host's file with what the volume holds.
func (v *Volume) Image() string { return filepath.Join(v.node.pool(), v.ID, "disk.img") }

func contentSource(id string) *csi.VolumeContentSource {
	switch {
	case id == "":
		return nil
	case strings.HasPrefix(id, "ks-"):
		return &csi.VolumeContentSource{Type: &csi.VolumeContentSource_Snapshot{
			Snapshot: &csi.VolumeContentSource_SnapshotSource{SnapshotId: id}}}
	}
	return &csi.VolumeContentSource{Type: &csi.VolumeContentSource_Volume{
		Volume: &csi.VolumeContentSource_VolumeSource{VolumeId: id}}}
}
