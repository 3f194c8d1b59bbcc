package csi

import (
	"context"
	"slices"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/katadirect/katadirect/pkg/csi/pool"
)

// maxGroup bounds how many volumes are held still together: each of them waits for the slowest.
const maxGroup = 64

// groupController is the service for snapshots of several volumes at one moment.
type groupController struct {
	csi.UnimplementedGroupControllerServer
	*controller
}

func (g groupController) GroupControllerGetCapabilities(context.Context, *csi.GroupControllerGetCapabilitiesRequest) (*csi.GroupControllerGetCapabilitiesResponse, error) {
	return &csi.GroupControllerGetCapabilitiesResponse{Capabilities: []*csi.GroupControllerServiceCapability{{
		Type: &csi.GroupControllerServiceCapability_Rpc{Rpc: &csi.GroupControllerServiceCapability_RPC{
			Type: csi.GroupControllerServiceCapability_RPC_CREATE_DELETE_GET_VOLUME_GROUP_SNAPSHOT,
		}},
	}}}, nil
}

// CreateVolumeGroupSnapshot takes snapshots of volumes at one moment: all stand still together.
func (g groupController) CreateVolumeGroupSnapshot(ctx context.Context, r *csi.CreateVolumeGroupSnapshotRequest) (*csi.CreateVolumeGroupSnapshotResponse, error) {
	spec := pool.GroupSpec{Name: r.GetName(), SourceIDs: slices.Compact(slices.Sorted(slices.Values(r.GetSourceVolumeIds())))}
	switch {
	case spec.Name == "":
		return nil, failf(ErrInvalidArgument, "the group snapshot's name is missing")
	case len(spec.SourceIDs) == 0:
		return nil, failf(ErrInvalidArgument, "the source volumes are missing")
	case len(spec.SourceIDs) > maxGroup:
		return nil, failf(ErrInvalidArgument, "%d volumes are to be one group; %d are possible", len(spec.SourceIDs), maxGroup)
	}
	for _, id := range spec.SourceIDs {
		if err := pool.ValidateID(id); err != nil {
			return nil, failf(ErrInvalidArgument, "the source volumes: %w", err)
		}
	}
	limit, err := parseSnapshotClass(r.GetParameters(), g.capturer.freezeLimit)
	if err != nil {
		return nil, err
	}
	made, found, err := g.pool.FindGroup(spec)
	if err == nil && !found {
		made, err = g.takeGroup(ctx, spec, limit)
	}
	if err != nil {
		return nil, err
	}
	return &csi.CreateVolumeGroupSnapshotResponse{GroupSnapshot: g.group(made)}, nil
}

func (g groupController) takeGroup(ctx context.Context, spec pool.GroupSpec, limit time.Duration) (pool.Group, error) {
	id := g.pool.GroupID(spec.Name)
	work := func(ctx context.Context, cut func()) error {
		if _, found, err := g.pool.FindGroup(spec); found || err != nil {
			return err
		}
		var drafts []*pool.Draft
		var all []capture
		for _, source := range spec.SourceIDs {
			d, err := g.pool.BeginMember(ctx, spec, source)
			if err != nil {
				return err
			}
			defer g.discard(ctx, d)
			drafts, all = append(drafts, d), append(all, capture{source, d})
		}
		err := g.capturer.capture(ctx, limit, all, func(created time.Time) {
			for _, d := range drafts {
				d.Cut(created)
			}
			cut()
		})
		if err != nil {
			return err
		}
		_, err = g.pool.FinishGroup(spec, drafts)
		return err
	}
	j, err := g.jobs.start(id, "group of "+fingerprint(spec.SourceIDs), spec.SourceIDs, work)
	if err == nil {
		err = j.wait(ctx)
	}
	if err != nil {
		return pool.Group{}, err
	}
	made, found, err := g.pool.FindGroup(spec)
	if err == nil && !found {
		err = failf(ErrBusy, "group snapshot %s has gone again; repeat the call", id)
	}
	return made, err
}

// DeleteVolumeGroupSnapshot deletes a group with all its snapshots, or ends its making.
func (g groupController) DeleteVolumeGroupSnapshot(ctx context.Context, r *csi.DeleteVolumeGroupSnapshotRequest) (*csi.DeleteVolumeGroupSnapshotResponse, error) {
	id := r.GetGroupSnapshotId()
	if err := pool.ValidateID(id); err != nil {
		return nil, err
	}
	if !pool.IsGroupID(id) {
		return &csi.DeleteVolumeGroupSnapshotResponse{}, nil
	}
	if err := g.jobs.stop(ctx, id); err != nil {
		return nil, err
	}
	names := []string{id}
	if present, err := g.pool.GetGroup(id); err == nil {
		if err := sameMembers(present, r.GetSnapshotIds()); err != nil {
			return nil, err
		}
		for _, s := range present.Members {
			names = append(names, s.ID)
		}
	}
	return alone(g.jobs.locks, func(ctx context.Context, _ *csi.DeleteVolumeGroupSnapshotRequest) (*csi.DeleteVolumeGroupSnapshotResponse, error) {
		return &csi.DeleteVolumeGroupSnapshotResponse{}, g.pool.DeleteGroup(ctx, id)
	}, ctx, r, names...)
}

// GetVolumeGroupSnapshot describes a group.
func (g groupController) GetVolumeGroupSnapshot(_ context.Context, r *csi.GetVolumeGroupSnapshotRequest) (*csi.GetVolumeGroupSnapshotResponse, error) {
	present, err := g.pool.GetGroup(r.GetGroupSnapshotId())
	if err != nil {
		return nil, err
	}
	if err := sameMembers(present, r.GetSnapshotIds()); err != nil {
		return nil, err
	}
	return &csi.GetVolumeGroupSnapshotResponse{GroupSnapshot: g.group(present)}, nil
}

// sameMembers checks what the caller believes to be in the group. Nothing at all is no belief.
func sameMembers(g pool.Group, ids []string) error {
	var present []string
	for _, s := range g.Members {
		present = append(present, s.ID)
	}
	if len(ids) > 0 && fingerprint(ids) != fingerprint(present) {
		return failf(ErrInvalidArgument, "group snapshot %s has the snapshots %v, not %v", g.ID, present, ids)
	}
	return nil
}

func (g groupController) group(of pool.Group) *csi.VolumeGroupSnapshot {
	described := &csi.VolumeGroupSnapshot{
		GroupSnapshotId: of.ID, CreationTime: timestamppb.New(of.Created), ReadyToUse: true,
	}
	for _, s := range of.Members {
		described.Snapshots = append(described.Snapshots, g.snapshot(s))
	}
	return described
}
