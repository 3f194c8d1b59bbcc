package csi

import (
	"context"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/katadirect/katadirect/pkg/csi/pool"
)

// parameterFreezeLimit is how long a guest's file system may stand still for a snapshot.
const parameterFreezeLimit = "katadirect.io/freezeLimit"

// informativeOfSnapshots are keys that external-snapshotter adds with --extra-create-metadata.
var informativeOfSnapshots = []string{
	"csi.storage.k8s.io/volumesnapshot/name", "csi.storage.k8s.io/volumesnapshot/namespace",
	"csi.storage.k8s.io/volumesnapshotcontent/name",
	"csi.storage.k8s.io/volumegroupsnapshot/name", "csi.storage.k8s.io/volumegroupsnapshot/namespace",
	"csi.storage.k8s.io/volumegroupsnapshotcontent/name",
}

// parseSnapshotClass reads the parameters of a VolumeSnapshotClass, or of one of groups. The driver's own limit is the
// default.
func parseSnapshotClass(given map[string]string, defaultLimit time.Duration) (freezeLimit time.Duration, err error) {
	freezeLimit = defaultLimit
	for _, key := range slices.Sorted(maps.Keys(given)) {
		switch {
		case slices.Contains(informativeOfSnapshots, key):
		case key == parameterFreezeLimit:
			freezeLimit, err = time.ParseDuration(given[key])
			if err == nil {
				err = CheckFreezeLimit(freezeLimit)
			}
			if err != nil {
				return 0, failf(ErrInvalidArgument, "parameter %s: %w", key, err)
			}
		default:
			return 0, failf(ErrInvalidArgument, "unknown parameter %q of the VolumeSnapshotClass; known is %s", key, parameterFreezeLimit)
		}
	}
	return freezeLimit, nil
}

// CreateSnapshot takes a snapshot of a volume, in use or not. It returns when the snapshot is ready or, if copying
// takes longer than the caller waits, when the volume is free to change; the repeated call says how it went on.
func (c *controller) CreateSnapshot(ctx context.Context, r *csi.CreateSnapshotRequest) (*csi.CreateSnapshotResponse, error) {
	spec := pool.SnapshotSpec{Name: r.GetName(), SourceID: r.GetSourceVolumeId()}
	if spec.Name == "" {
		return nil, failf(ErrInvalidArgument, "the snapshot's name is missing")
	}
	if err := pool.ValidateID(spec.SourceID); err != nil {
		return nil, failf(ErrInvalidArgument, "the source volume: %w", err)
	}
	freezeLimit, err := parseSnapshotClass(r.GetParameters(), c.capturer.freezeLimit)
	if err != nil {
		return nil, err
	}
	if err := c.topology.accept(r.GetAccessibilityRequirements()); err != nil {
		return nil, err
	}
	s, found, err := c.pool.FindSnapshot(spec)
	if err == nil && !(found && s.Ready) {
		s, err = c.takeSnapshot(ctx, spec, freezeLimit)
	}
	if err != nil {
		return nil, err
	}
	return &csi.CreateSnapshotResponse{Snapshot: c.snapshot(s)}, nil
}

func (c *controller) takeSnapshot(ctx context.Context, spec pool.SnapshotSpec, freezeLimit time.Duration) (pool.Snapshot, error) {
	id := c.pool.SnapshotID(spec.Name)
	work := func(ctx context.Context, cut func()) error {
		if _, found, err := c.pool.FindSnapshot(spec); found || err != nil {
			return err // the job before this one has made it
		}
		d, err := c.pool.BeginSnapshot(ctx, spec)
		if err != nil {
			return err
		}
		defer c.discard(ctx, d)
		err = c.capturer.capture(ctx, freezeLimit, []capture{{spec.SourceID, d}}, func(created time.Time) {
			d.Cut(created)
			cut()
		})
		if err != nil {
			return err
		}
		_, err = d.FinishSnapshot()
		return err
	}
	j, err := c.jobs.start(id, "snapshot of "+spec.SourceID, []string{spec.SourceID}, work)
	if err == nil {
		err = j.waitCut(ctx)
	}
	if err != nil {
		return pool.Snapshot{}, err
	}
	s, found, err := c.pool.FindSnapshot(spec)
	if err == nil && !found { // deleted, or given up, between the two
		err = failf(ErrBusy, "snapshot %s has gone again; repeat the call", id)
	}
	return s, err
}

func (c *controller) discard(ctx context.Context, d *pool.Draft) {
	if err := d.Discard(ctx); err != nil {
		c.log.ErrorContext(ctx, "an unfinished copy cannot be removed; it is when the driver starts again", "error", err)
	}
}

// DeleteSnapshot deletes a snapshot with its data, or ends its making. Volumes that were made from it keep theirs.
func (c *controller) DeleteSnapshot(ctx context.Context, r *csi.DeleteSnapshotRequest) (*csi.DeleteSnapshotResponse, error) {
	id := r.GetSnapshotId()
	if err := pool.ValidateID(id); err != nil {
		return nil, err
	}
	if !pool.IsSnapshotID(id) {
		return &csi.DeleteSnapshotResponse{}, nil
	}
	if err := c.jobs.stop(ctx, id); err != nil {
		return nil, err
	}
	return alone(c.jobs.locks, func(ctx context.Context, _ *csi.DeleteSnapshotRequest) (*csi.DeleteSnapshotResponse, error) {
		return &csi.DeleteSnapshotResponse{}, c.pool.DeleteSnapshot(ctx, id)
	}, ctx, r, id)
}

// ListSnapshots lists the snapshots there are, page by page in the order of their ids, those that are still being
// copied too. Ids that nobody knows are no error here.
func (c *controller) ListSnapshots(ctx context.Context, r *csi.ListSnapshotsRequest) (*csi.ListSnapshotsResponse, error) {
	after, err := parsePage(r.GetStartingToken(), r.GetMaxEntries(), pool.IsSnapshotID)
	if err != nil {
		return nil, err
	}
	list := &csi.ListSnapshotsResponse{}
	add := func(s pool.Snapshot) {
		list.Entries = append(list.Entries, &csi.ListSnapshotsResponse_Entry{Snapshot: c.snapshot(s)})
	}
	if id := r.GetSnapshotId(); id != "" {
		s, err := c.pool.GetSnapshot(ctx, id)
		if source := r.GetSourceVolumeId(); err == nil && id > after && (source == "" || source == s.SourceID) {
			add(s)
		}
		return list, nil
	}
	page, more := c.pool.SnapshotPage(ctx, r.GetSourceVolumeId(), after, int(r.GetMaxEntries()))
	for _, s := range page {
		add(s)
	}
	if more {
		list.NextToken = pageToken(page[len(page)-1].ID)
	}
	return list, nil
}

// GetSnapshot describes one snapshot.
func (c *controller) GetSnapshot(ctx context.Context, r *csi.GetSnapshotRequest) (*csi.GetSnapshotResponse, error) {
	s, err := c.pool.GetSnapshot(ctx, r.GetSnapshotId())
	if err != nil {
		return nil, err
	}
	return &csi.GetSnapshotResponse{Snapshot: c.snapshot(s)}, nil
}

// snapshot is how a snapshot is described to callers, by every call that does.
func (c *controller) snapshot(s pool.Snapshot) *csi.Snapshot {
	return &csi.Snapshot{
		SnapshotId:         s.ID,
		SourceVolumeId:     s.SourceID,
		SizeBytes:          s.SizeBytes,
		CreationTime:       timestamppb.New(s.Created),
		ReadyToUse:         s.Ready,
		GroupSnapshotId:    s.GroupID,
		AccessibleTopology: c.topology.here(),
	}
}

// fingerprint joins ids to something that is the same for the same ids in any order.
func fingerprint(ids []string) string { return strings.Join(slices.Sorted(slices.Values(ids)), " ") }
