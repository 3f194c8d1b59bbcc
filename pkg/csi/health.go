package csi

import (
	"context"
	"errors"

	"github.com/container-storage-interface/spec/lib/go/csi"

	"github.com/katadirect/katadirect/pkg/csi/health"
	"github.com/katadirect/katadirect/pkg/csi/pool"
)

// The health RPCs of CSI 1.13. A volume is on one node, and what its controller and its node say of it is the same.

func (c *controller) ControllerGetVolumeHealth(ctx context.Context, r *csi.ControllerGetVolumeHealthRequest) (*csi.ControllerGetVolumeHealthResponse, error) {
	id := r.GetVolumeId()
	problems, err := c.checkup.volume(ctx, id)
	if errors.Is(err, pool.ErrNotFound) && pool.IsPoolID(id) && !c.pool.Local(id) {
		err = failf(pool.ErrNotFound, "volume %s is of another node; the driver there knows how it is", id)
	}
	if err != nil {
		return nil, err
	}
	return &csi.ControllerGetVolumeHealthResponse{VolumeHealth: volumeHealth(id, problems)}, nil
}

// ControllerListVolumeHealth lists the volumes of this node with which something is wrong.
func (c *controller) ControllerListVolumeHealth(ctx context.Context, r *csi.ControllerListVolumeHealthRequest) (*csi.ControllerListVolumeHealthResponse, error) {
	after, err := parsePage(r.GetStartingToken(), r.GetMaxEntries(), pool.IsPoolID)
	if err != nil {
		return nil, err
	}
	sick, more, err := c.checkup.sick(ctx, after, int(r.GetMaxEntries()))
	if err != nil {
		return nil, err
	}
	list := &csi.ControllerListVolumeHealthResponse{}
	for _, one := range sick {
		list.Entries = append(list.Entries, volumeHealth(one.id, one.problems))
	}
	if more {
		list.NextToken = pageToken(sick[len(sick)-1].id)
	}
	return list, nil
}

// NodeGetVolumeHealth answers for a volume that is neither staged nor published too: kubelet may ask why it cannot be.
func (n *node) NodeGetVolumeHealth(ctx context.Context, r *csi.NodeGetVolumeHealthRequest) (*csi.NodeGetVolumeHealthResponse, error) {
	id := r.GetVolumeId()
	if err := pool.ValidateID(id); err != nil {
		return nil, err
	}
	for name, path := range map[string]string{"volume publish path": r.GetVolumePublishPath(), "staging target path": r.GetStagingTargetPath()} {
		if path == "" {
			continue
		}
		if err := checkPath(name, path); err != nil {
			return nil, err
		}
	}
	problems, err := n.checkup.volume(ctx, n.poolID(id))
	if err != nil {
		return nil, err
	}
	return &csi.NodeGetVolumeHealthResponse{VolumeHealth: volumeHealth(id, problems)}, nil
}

func (n *node) NodeGetStorageHealth(ctx context.Context, _ *csi.NodeGetStorageHealthRequest) (*csi.NodeGetStorageHealthResponse, error) {
	answer := &csi.NodeGetStorageHealthResponse{}
	for _, p := range n.checkup.storage(ctx) {
		status := csi.StorageHealthErrorType_STORAGE_DEGRADED
		if p.Severity == health.Inaccessible {
			status = csi.StorageHealthErrorType_STORAGE_UNREACHABLE
		}
		answer.BackendHealth = append(answer.BackendHealth, &csi.NodeGetStorageHealthResponse_StorageBackendHealth{
			Status: status, Reason: p.Reason, Message: p.Message,
		})
	}
	return answer, nil
}

var healthStatus = map[health.Severity]csi.VolumeHealthErrorType{
	health.Degraded:     csi.VolumeHealthErrorType_DEGRADED,
	health.Inaccessible: csi.VolumeHealthErrorType_INACCESSIBLE,
	health.DataLoss:     csi.VolumeHealthErrorType_DATA_LOSS,
}

// volumeHealth puts problems into CSI's words, in which each combination of status and reason stands once.
func volumeHealth(id string, problems []health.Problem) *csi.VolumeHealth {
	h := &csi.VolumeHealth{VolumeId: id}
	seen := map[string]bool{}
	for _, p := range problems {
		if seen[p.Reason] {
			continue
		}
		seen[p.Reason] = true
		h.HealthStatuses = append(h.HealthStatuses, &csi.VolumeHealth_VolumeHealthEntry{
			Status: healthStatus[p.Severity], Reason: p.Reason, Message: p.Message,
		})
	}
	return h
}
