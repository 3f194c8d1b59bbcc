package csi

import (
	"context"
	"errors"
	"fmt"
	"strconv"

	"github.com/container-storage-interface/spec/lib/go/csi"

	"github.com/katadirect/katadirect/pkg/csi/pool"
	"github.com/katadirect/katadirect/pkg/csi/stage"
	"github.com/katadirect/katadirect/pkg/directvolume"
)

// NodeExpandVolume grows the volume, durably and in this order: the image, the records, the guest's file system. With
// no machine on it the last step happens at the next mount. Each step finds out by itself what is left to do, so a
// call that failed half way is simply repeated.
func (n *node) NodeExpandVolume(ctx context.Context, r *csi.NodeExpandVolumeRequest) (*csi.NodeExpandVolumeResponse, error) {
	id := r.GetVolumeId()
	if err := pool.ValidateID(id); err != nil {
		return nil, err
	}
	if r.GetVolumePath() == "" {
		return nil, failf(ErrInvalidArgument, "the volume path is missing")
	}
	size, err := parseSize(r.GetCapacityRange())
	if err != nil {
		return nil, err
	}
	if r.GetVolumeCapability() != nil {
		if _, err := parseAccess(r.GetVolumeCapability()); err != nil {
			return nil, err
		}
	}
	if _, err := n.pool.Get(ctx, id); err != nil {
		return nil, err
	}
	if err := n.checkAt(ctx, id, r.GetVolumePath()); err != nil {
		return nil, err
	}
	v, err := n.pool.Grow(ctx, id, size)
	if err != nil {
		return nil, err
	}
	if err := n.loops.Grow(ctx, v.ImagePath); err != nil {
		return nil, err
	}
	if err := n.growOnHost(ctx, v); err != nil {
		return nil, err
	}
	if err := n.tell(ctx, v); err != nil {
		return nil, err
	}
	return &csi.NodeExpandVolumeResponse{CapacityBytes: v.SizeBytes}, nil
}

// checkAt returns ErrNotPublished unless the volume is published or staged at the path, or the path is its device.
func (n *node) checkAt(ctx context.Context, id, path string) error {
	present, err := n.staged.Get(ctx, id)
	if err == nil && present.StagingPath == path {
		return nil
	}
	if err != nil && !errors.Is(err, stage.ErrNotStaged) {
		return err
	}
	_, err = n.records.at(ctx, path, id)
	if errors.Is(err, ErrNotPublished) && (n.isDeviceOf(ctx, id, path) || n.isOnHostAt(ctx, id, path)) {
		return nil
	}
	return err
}

// tell makes records and guests know the volume's size. It looks for records only now that the image has grown: a
// sandbox that claims the volume later finds the new size by itself.
func (n *node) tell(ctx context.Context, v pool.Volume) error {
	publications, err := n.records.of(ctx, v)
	if err != nil {
		return err
	}
	told := false
	for _, p := range publications {
		if err := n.updateRecord(ctx, p, v); err != nil {
			return err
		}
		for _, sandbox := range p.sandboxes {
			if p.record.ReadOnly() {
				return failf(ErrCannotResize, "volume %s is read-only in sandbox %s, where nothing can make it grow. It has %d bytes "+
					"now, and a pod that has it for writing will find them", v.ID, sandbox, v.SizeBytes)
			}
			if err := n.guests.resize(ctx, sandbox, p.record.Device, v.SizeBytes); err != nil {
				return err
			}
			told = true
		}
	}
	if told {
		return nil
	}
	// A record that cannot be read, or a runtime that claims nothing, hides a machine from the list. Its file system
	// has not grown, and the caller must not believe that it has.
	if err := n.pool.CheckUnlocked(v.ID); err != nil {
		return fmt.Errorf("the image of volume %s has %d bytes now, but no readable record says which machine has it, so its "+
			"file system follows when the pod is started again: %w", v.ID, v.SizeBytes, err)
	}
	return nil
}

func (n *node) updateRecord(ctx context.Context, p publication, v pool.Volume) error {
	size := strconv.FormatInt(v.SizeBytes, 10)
	if p.record.Metadata[directvolume.MetadataSizeBytes] == size || p.record.Metadata[directvolume.MetadataVolumeID] != v.ID {
		return nil
	}
	p.record.Metadata[directvolume.MetadataSizeBytes] = size
	return n.records.store.Add(ctx, p.path, p.record)
}
