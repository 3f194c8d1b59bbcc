package csi

import (
	"context"
	"errors"

	"github.com/container-storage-interface/spec/lib/go/csi"

	"github.com/katadirect/katadirect/pkg/csi/pool"
)

// ControllerPublishVolume attaches the volume to this node. There is nothing to do for that: the image is here. What
// the call is good for is its limit, and that it says which volumes are in use; a volume that is attached is not
// deleted. Kubernetes leaves it out for drivers with attachRequired: false; other orchestrators do not.
func (c *controller) ControllerPublishVolume(ctx context.Context, r *csi.ControllerPublishVolumeRequest) (*csi.ControllerPublishVolumeResponse, error) {
	id := r.GetVolumeId()
	if err := pool.ValidateID(id); err != nil {
		return nil, err
	}
	if r.GetNodeId() == "" {
		return nil, failf(ErrInvalidArgument, "the node id is missing")
	}
	if _, err := parseAccess(r.GetVolumeCapability()); err != nil {
		return nil, err
	}
	if _, err := c.pool.Get(ctx, id); err != nil {
		return nil, err
	}
	if r.GetNodeId() != string(c.topology) {
		return nil, failf(ErrNoNode, "volume %s is on node %q and cannot be attached to node %q", id, c.topology, r.GetNodeId())
	}
	if err := c.pool.Attach(ctx, id, r.GetReadonly(), c.maxVolumes); err != nil {
		return nil, err
	}
	return &csi.ControllerPublishVolumeResponse{}, nil
}

// ControllerUnpublishVolume detaches the volume. From another node it is detached already. One that kubelet has not
// unstaged yet stays attached: a pod may be writing to it.
func (c *controller) ControllerUnpublishVolume(ctx context.Context, r *csi.ControllerUnpublishVolumeRequest) (*csi.ControllerUnpublishVolumeResponse, error) {
	id := r.GetVolumeId()
	if err := pool.ValidateID(id); err != nil {
		return nil, err
	}
	if node := r.GetNodeId(); node != "" && node != string(c.topology) {
		return &csi.ControllerUnpublishVolumeResponse{}, nil
	}
	if _, attached := c.pool.Attached(id); !attached {
		return &csi.ControllerUnpublishVolumeResponse{}, nil
	}
	if err := c.checkUnused(ctx, id); errors.Is(err, ErrInUse) {
		return nil, failf(ErrInUse, "detach: %w", err)
	} else if err != nil {
		return nil, err
	}
	if err := c.pool.Detach(ctx, id); err != nil {
		return nil, err
	}
	return &csi.ControllerUnpublishVolumeResponse{}, nil
}

// checkDetached refuses to delete a volume that an orchestrator has attached.
func (c *controller) checkDetached(id string) error {
	if _, attached := c.pool.Attached(id); attached {
		return failf(ErrInUse, "volume %s is attached to node %s; detach it first", id, c.topology)
	}
	return nil
}
