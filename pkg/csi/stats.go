package csi

import (
	"context"

	"github.com/container-storage-interface/spec/lib/go/csi"

	"github.com/katadirect/katadirect/pkg/csi/pool"
)

// NodeGetVolumeStats says how full the volume is, as the one who has mounted it sees it. It answers within a bounded
// time: what is not answered for is the last known. CSI 1.13 has no condition here any more; NodeGetVolumeHealth has.
func (n *node) NodeGetVolumeStats(ctx context.Context, r *csi.NodeGetVolumeStatsRequest) (*csi.NodeGetVolumeStatsResponse, error) {
	id := r.GetVolumeId()
	if err := pool.ValidateID(id); err != nil {
		return nil, err
	}
	id = n.poolID(id)
	if r.GetVolumePath() == "" {
		return nil, failf(ErrInvalidArgument, "the volume path is missing")
	}
	v, err := n.pool.Get(ctx, id)
	if err != nil {
		return nil, err
	}
	if err := n.checkAt(ctx, id, r.GetVolumePath()); err != nil {
		return nil, err
	}
	reading, err := n.checkup.read(ctx, v)
	switch {
	case err != nil:
		return nil, err
	case reading.usage == nil:
		return nil, reading.unknown
	}
	return &csi.NodeGetVolumeStatsResponse{Usage: reading.usage}, nil
}
