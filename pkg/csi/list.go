package csi

import (
	"context"

	"github.com/container-storage-interface/spec/lib/go/csi"

	"github.com/katadirect/katadirect/pkg/csi/pool"
)

// ListVolumes lists what the pool has, damaged volumes too, page by page in the order of the ids.
func (c *controller) ListVolumes(ctx context.Context, r *csi.ListVolumesRequest) (*csi.ListVolumesResponse, error) {
	after, err := parsePage(r.GetStartingToken(), r.GetMaxEntries(), pool.IsPoolID)
	if err != nil {
		return nil, err
	}
	nodes, err := c.publishedNodes(ctx)
	if err != nil {
		return nil, err
	}
	page, more := c.pool.Page(ctx, after, int(r.GetMaxEntries()))
	list := &csi.ListVolumesResponse{Entries: make([]*csi.ListVolumesResponse_Entry, 0, len(page))}
	for _, v := range page {
		list.Entries = append(list.Entries, &csi.ListVolumesResponse_Entry{
			Volume: c.volume(v),
			Status: &csi.ListVolumesResponse_VolumeStatus{PublishedNodeIds: nodes(v.ID)},
		})
	}
	if more {
		list.NextToken = pageToken(page[len(page)-1].ID)
	}
	return list, nil
}

// ControllerGetVolume describes one volume. Of a damaged one it says what is wrong.
func (c *controller) ControllerGetVolume(ctx context.Context, r *csi.ControllerGetVolumeRequest) (*csi.ControllerGetVolumeResponse, error) {
	v, err := c.pool.Get(ctx, r.GetVolumeId())
	if err != nil {
		return nil, err
	}
	nodes, err := c.publishedNodes(ctx)
	if err != nil {
		return nil, err
	}
	return &csi.ControllerGetVolumeResponse{
		Volume: c.volume(v),
		Status: &csi.ControllerGetVolumeResponse_VolumeStatus{PublishedNodeIds: nodes(v.ID)},
	}, nil
}

// volume is how a volume is described to callers, by every call that does.
func (c *controller) volume(v pool.Volume) *csi.Volume {
	return &csi.Volume{
		VolumeId:           v.ID,
		CapacityBytes:      v.SizeBytes,
		VolumeContext:      v.Parameters,
		ContentSource:      contentSource(v.Source),
		AccessibleTopology: c.topology.here(),
	}
}

// publishedNodes returns a function that says on which nodes a volume is: this one, while it is attached or
// staged, or none.
func (c *controller) publishedNodes(ctx context.Context) (func(id string) []string, error) {
	staged, err := c.staged.IDs(ctx)
	if err != nil {
		return nil, err
	}
	here := []string{string(c.topology)}
	return func(id string) []string {
		_, isStaged := staged[id]
		if _, attached := c.pool.Attached(id); attached || isStaged {
			return here
		}
		return nil
	}, nil
}
