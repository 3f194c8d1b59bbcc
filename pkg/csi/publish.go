package csi

import (
	"context"
	"errors"
	"fmt"
	"io/fs"

	"github.com/container-storage-interface/spec/lib/go/csi"

	"github.com/katadirect/katadirect/internal/rollback"
	"github.com/katadirect/katadirect/pkg/csi/mode"
	"github.com/katadirect/katadirect/pkg/csi/pool"
	"github.com/katadirect/katadirect/pkg/csi/stage"
	"github.com/katadirect/katadirect/pkg/directvolume"
)

// NodePublishVolume makes an empty folder at the target path and a record that tells the runtime what belongs there.
func (n *node) NodePublishVolume(ctx context.Context, r *csi.NodePublishVolumeRequest) (*csi.NodePublishVolumeResponse, error) {
	if err := pool.ValidateID(r.GetVolumeId()); err != nil {
		return nil, err
	}
	if err := checkPath("target path", r.GetTargetPath()); err != nil {
		return nil, err
	}
	if r.GetVolumeContext()[ephemeralKey] == "true" {
		return &csi.NodePublishVolumeResponse{}, n.publishInline(ctx, r)
	}
	v, a, err := n.volumeFor(ctx, r.GetVolumeId(), r.GetVolumeCapability())
	if err != nil {
		return nil, err
	}
	staged, err := n.checkStaged(ctx, v.ID, r.GetStagingTargetPath())
	if err != nil {
		return nil, err
	}
	if staged.ReadOnly && !n.onlyReads(v.ID, a, r) {
		return nil, failf(ErrState, "volume %s is staged read-only at %s and cannot be published to write; "+
			"end the pods that have it, so that it is staged anew", v.ID, staged.StagingPath)
	}
	return &csi.NodePublishVolumeResponse{}, n.publishVolume(ctx, v, a, r)
}

// onlyReads reports whether a pod gets the volume read-only: because it is to be published so, or because the volume is
// attached so (csi.readOnly of a PersistentVolume), of which kubelet says nothing here.
func (n *node) onlyReads(id string, a access, r *csi.NodePublishVolumeRequest) bool {
	attachedReadOnly, _ := n.pool.Attached(id)
	return attachedReadOnly || r.GetReadonly() || a.readOnly()
}

// publishVolume publishes a volume that is ready for it.
func (n *node) publishVolume(ctx context.Context, v pool.Volume, a access, r *csi.NodePublishVolumeRequest) error {
	readOnly := n.onlyReads(v.ID, a, r)
	if isRaw(v) { // the same for machines and ordinary pods
		return n.publishRaw(ctx, v, r.GetTargetPath(), forPod(newRawRecord(v, readOnly), r))
	}
	how, err := n.way(ctx, v, r)
	switch {
	case err != nil:
		return err
	case how == mode.Host && isInline(v):
		return n.publishInlineOnHost(ctx, v, a, r)
	case how == mode.Host:
		return n.publishOnHost(ctx, v, a, r, readOnly)
	}
	if err := n.leaveHost(ctx, v); err != nil {
		return err
	}
	record := forPod(newRecord(v, a, readOnly), r)
	n.addGroupPolicy(ctx, &record, r)
	return n.publish(ctx, v, r.GetTargetPath(), record)
}

func (n *node) checkStaged(ctx context.Context, id, stagingPath string) (stage.Volume, error) {
	if stagingPath == "" {
		return stage.Volume{}, failf(ErrState, "the staging target path is missing: volume %s has to be staged before it is published", id)
	}
	present, err := n.staged.Get(ctx, id)
	if errors.Is(err, stage.ErrNotStaged) {
		return stage.Volume{}, failf(ErrState, "volume %s is not staged on this node (since it booted); stage it first", id)
	}
	if err != nil {
		return stage.Volume{}, err
	}
	if present.StagingPath != stagingPath {
		return stage.Volume{}, failf(ErrState, "volume %s is staged at %s, not at %s", id, present.StagingPath, stagingPath)
	}
	return present, nil
}

// publish makes folder and record, or finds that they are there as they should be. On error it takes back what it made.
func (n *node) publish(ctx context.Context, v pool.Volume, targetPath string, wanted directvolume.Record) (err error) {
	if err := n.checkFree(ctx, v, targetPath, wanted); err != nil {
		return err
	}
	if err := n.limiter.addLimits(ctx, v.ID, &wanted); err != nil {
		return err
	}
	var undo rollback.Stack
	defer undo.OnError(ctx, &err)
	made, err := makeTarget(targetPath)
	if err != nil {
		return err
	}
	if made {
		undo.Push("remove the target path", func(context.Context) error { return removeTarget(targetPath) })
	}
	return n.records.store.Add(ctx, targetPath, wanted)
}

// checkFree refuses if the volume is published elsewhere, or the path is another volume's. A guest's file system
// cannot be shared, so this holds for every access mode.
func (n *node) checkFree(ctx context.Context, v pool.Volume, targetPath string, wanted directvolume.Record) error {
	real, err := realPath(targetPath)
	if errors.Is(err, fs.ErrNotExist) {
		return failf(ErrState, "the folder that the target path %s is to be in does not exist", targetPath)
	}
	if err != nil {
		return fmt.Errorf("look at the target path: %w", err)
	}
	publications, err := n.records.of(ctx, v)
	if err != nil {
		return err
	}
	for _, p := range publications {
		switch {
		case p.path == real && !sameMount(p.record, wanted):
			return failf(ErrDiffers, "volume %s is published at %s with file system %s and options %v, not %s and %v",
				v.ID, targetPath, p.record.FSType, p.record.Options, wanted.FSType, wanted.Options)
		case p.path == real:
		default:
			return refuseSecondPod(v, p)
		}
	}
	return n.checkPathFree(ctx, v.ID, targetPath)
}

func (n *node) checkPathFree(ctx context.Context, id, targetPath string) error {
	record, err := n.records.store.Get(ctx, targetPath)
	switch {
	case errors.Is(err, directvolume.ErrInvalidKey):
		return err // Get finds nothing there, and Add would refuse
	case errors.Is(err, directvolume.ErrNotFound), errors.Is(err, directvolume.ErrInvalid):
		return nil // Add replaces a record that is torn, unless a living sandbox has it
	case err != nil:
		return err
	}
	if other := record.Metadata[directvolume.MetadataVolumeID]; other != id && record.Device != "" {
		return failf(ErrInUse, "the target path %s has the record of another volume (%q, device %s); unpublish that first",
			targetPath, other, record.Device)
	}
	return nil
}

// NodeUnpublishVolume removes the record and the empty folder. A volume or path that nobody knows is a success.
func (n *node) NodeUnpublishVolume(ctx context.Context, r *csi.NodeUnpublishVolumeRequest) (*csi.NodeUnpublishVolumeResponse, error) {
	id, targetPath := r.GetVolumeId(), r.GetTargetPath()
	if err := pool.ValidateID(id); err != nil {
		return nil, err
	}
	if err := checkPath("target path", targetPath); err != nil {
		return nil, err
	}
	id = n.poolID(id)
	if err := n.checkOwn(ctx, id, targetPath); err != nil {
		return nil, err
	}
	if err := n.unpublishOnHost(ctx, id, targetPath); err != nil {
		return nil, err
	}
	// The record first: from then on no container can start with the volume, and the folder is only a folder.
	if err := n.records.store.Remove(ctx, targetPath); err != nil && !errors.Is(err, directvolume.ErrInvalidKey) {
		return nil, err
	}
	remove := removeTarget
	if isDeviceTarget(targetPath) {
		remove = removeDevice
	}
	if err := remove(targetPath); err != nil {
		return nil, err
	}
	if err := (inlineVolumes{n.pool, n.records, n.staged, n.log}).delete(ctx, id, targetPath); err != nil {
		return nil, err
	}
	if _, err := n.pool.Get(ctx, id); errors.Is(err, pool.ErrNotFound) {
		n.checkup.forget(id) // an inline volume has no DeleteVolume
	}
	return &csi.NodeUnpublishVolumeResponse{}, nil
}

// checkOwn refuses to remove the record of another volume. One that cannot be read is removed: it serves nobody.
func (n *node) checkOwn(ctx context.Context, id, targetPath string) error {
	record, err := n.records.store.Get(ctx, targetPath)
	switch {
	case errors.Is(err, directvolume.ErrNotFound), errors.Is(err, directvolume.ErrInvalid):
		return nil
	case err != nil:
		return err
	}
	if other := record.Metadata[directvolume.MetadataVolumeID]; other != id {
		return failf(ErrInUse, "%s has the record of another volume (%q, device %s), not of %s",
			targetPath, other, record.Device, id)
	}
	return nil
}
