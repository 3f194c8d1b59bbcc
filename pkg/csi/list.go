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
	published, err := c.published(ctx)
	if err != nil {
		return nil, err
	}
	page, more := c.pool.Page(ctx, after, int(r.GetMaxEntries()))
	list := &csi.ListVolumesResponse{Entries: make([]*csi.ListVolumesResponse_Entry, len(page))}
	// Very many of them are the same: a list of a thousand volumes shall not leave a thousand of each behind.
	described, nowhere := newEncoded(c.topology), &csi.ListVolumesResponse_VolumeStatus{}
	here := &csi.ListVolumesResponse_VolumeStatus{PublishedNodeIds: []string{string(c.topology)}}
	all := make([]struct {
		entry  csi.ListVolumesResponse_Entry
		volume csi.Volume
	}, len(page))
	for i, v := range page {
		if err := described.describe(&all[i].volume, v); err != nil {
			return nil, err
		}
		e := &all[i].entry
		e.Volume, e.Status = &all[i].volume, nowhere
		if published(v.ID) {
			e.Status = here
		}
		list.Entries[i] = e
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
	published, err := c.published(ctx)
	if err != nil {
		return nil, err
	}
	status := &csi.ControllerGetVolumeResponse_VolumeStatus{}
	if published(v.ID) {
		status.PublishedNodeIds = []string{string(c.topology)}
	}
	return &csi.ControllerGetVolumeResponse{Volume: c.volume(v), Status: status}, nil
}

// volume is how a volume of this node is described to callers, by every call that does.
func (c *controller) volume(v pool.Volume) *csi.Volume {
	described := &csi.Volume{VolumeContext: v.Parameters, AccessibleTopology: c.topology.here()}
	describe(described, v)
	return described
}

// describe says of a volume what it has for itself.
func describe(into *csi.Volume, v pool.Volume) {
	into.VolumeId, into.CapacityBytes = v.ID, v.SizeBytes
	into.ContentSource = contentSource(v.Source)
}

// published returns a function that says whether a volume is in use on this node: while it is attached or staged.
func (c *controller) published(ctx context.Context) (func(id string) bool, error) {
	staged, err := c.staged.IDs(ctx)
	if err != nil {
		return nil, err
	}
	return func(id string) bool {
		_, isStaged := staged[id]
		_, attached := c.pool.Attached(id)
		return isStaged || attached
	}, nil
}
