package csi

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"

	"github.com/container-storage-interface/spec/lib/go/csi"

	"github.com/katadirect/katadirect/internal/rollback"
	"github.com/katadirect/katadirect/pkg/csi/hostmount"
	"github.com/katadirect/katadirect/pkg/csi/loop"
	"github.com/katadirect/katadirect/pkg/csi/pool"
	"github.com/katadirect/katadirect/pkg/csi/stage"
)

// node is the node service. What is not defined here is answered UNIMPLEMENTED.
type node struct {
	csi.UnimplementedNodeServer
	pool     *pool.Pool
	loops    *loop.Devices
	staged   *stage.Store
	records  records
	hosts    *hostmount.Mounts
	guests   guests
	topology topology
	// maxVolumes is how many volumes this node takes at once.
	maxVolumes int
	checkup    *checkup
	limiter    limiter
	log        *slog.Logger
	modes      modes
}

func (n *node) NodeGetInfo(context.Context, *csi.NodeGetInfoRequest) (*csi.NodeGetInfoResponse, error) {
	return &csi.NodeGetInfoResponse{
		NodeId: string(n.topology), AccessibleTopology: n.topology.segment(), MaxVolumesPerNode: int64(n.maxVolumes),
	}, nil
}

func (n *node) NodeGetCapabilities(context.Context, *csi.NodeGetCapabilitiesRequest) (*csi.NodeGetCapabilitiesResponse, error) {
	var all []*csi.NodeServiceCapability
	for _, t := range []csi.NodeServiceCapability_RPC_Type{
		csi.NodeServiceCapability_RPC_STAGE_UNSTAGE_VOLUME,
		csi.NodeServiceCapability_RPC_GET_VOLUME_STATS,
		csi.NodeServiceCapability_RPC_EXPAND_VOLUME,
		csi.NodeServiceCapability_RPC_SINGLE_NODE_MULTI_WRITER,
		csi.NodeServiceCapability_RPC_VOLUME_MOUNT_GROUP,
		csi.NodeServiceCapability_RPC_GET_VOLUME_HEALTH,
		csi.NodeServiceCapability_RPC_GET_STORAGE_HEALTH,
	} {
		all = append(all, &csi.NodeServiceCapability{
			Type: &csi.NodeServiceCapability_Rpc{Rpc: &csi.NodeServiceCapability_RPC{Type: t}},
		})
	}
	return &csi.NodeGetCapabilitiesResponse{Capabilities: all}, nil
}

// NodeStageVolume remembers that kubelet has staged the volume. In direct mode there is nothing to mount; a raw block
// volume gets its device.
func (n *node) NodeStageVolume(ctx context.Context, r *csi.NodeStageVolumeRequest) (_ *csi.NodeStageVolumeResponse, err error) {
	if err := pool.ValidateID(r.GetVolumeId()); err != nil {
		return nil, err
	}
	if err := checkPath("staging target path", r.GetStagingTargetPath()); err != nil {
		return nil, err
	}
	v, a, err := n.volumeFor(ctx, r.GetVolumeId(), r.GetVolumeCapability())
	if err != nil {
		return nil, err
	}
	wanted := stage.Volume{
		ID:          v.ID,
		StagingPath: r.GetStagingTargetPath(),
		FSType:      v.FSType,
		ReadOnly:    a.readOnly(),
		Options:     a.options,

		SELinuxLabel: a.selinuxLabel,
	}
	switch present, err := n.staged.Get(ctx, v.ID); {
	case errors.Is(err, stage.ErrNotStaged):
		wanted.OnHost = isMountedFolder(wanted.StagingPath) // and the state that said so has been removed
	case err != nil:
		return nil, err
	case present.StagingPath != wanted.StagingPath:
		return nil, failf(ErrState, "volume %s is staged at %s; unstage it there first", v.ID, present.StagingPath)
	case present.ReadOnly != wanted.ReadOnly || !slices.Equal(present.Options, wanted.Options):
		// The writer modes are all one here: how many pods may write is decided at publish.
		return nil, failf(ErrDiffers, "volume %s is staged at %s read-only=%t with mount options %v, not read-only=%t with %v",
			v.ID, present.StagingPath, present.ReadOnly, present.Options, wanted.ReadOnly, wanted.Options)
	case present.SELinuxLabel != wanted.SELinuxLabel:
		return nil, failf(ErrDiffers, "volume %s is staged at %s with the SELinux label %q, not %q",
			v.ID, present.StagingPath, present.SELinuxLabel, wanted.SELinuxLabel)
	default:
		wanted.OnHost = present.OnHost
	}
	var undo rollback.Stack
	defer undo.OnError(ctx, &err)
	if isRaw(v) {
		if err := n.stageRaw(ctx, v, a, &undo); err != nil {
			return nil, err
		}
	}
	return &csi.NodeStageVolumeResponse{}, n.staged.Put(ctx, wanted)
}

// volumeFor returns the volume, and what the capability asks of it. What the volume cannot give is ErrState here, as
// CSI has it for the node ("exceeds capabilities"), though a capability that is missing is ErrInvalidArgument.
func (n *node) volumeFor(ctx context.Context, id string, c *csi.VolumeCapability) (pool.Volume, access, error) {
	a, err := parseAccess(c)
	if err != nil {
		return pool.Volume{}, access{}, err
	}
	v, err := n.pool.Get(ctx, id)
	if err != nil {
		return pool.Volume{}, access{}, err
	}
	if err := checkKind(v, a); err != nil || a.block {
		return v, a, err
	}
	if a.fsType != "" && a.fsType != v.FSType {
		return pool.Volume{}, access{}, failf(ErrState, "volume %s has %s, and %s is asked for; "+
			"a volume keeps the file system it was made with", id, v.FSType, a.fsType)
	}
	// With the file system known, options of another one are no longer right.
	_, err = parseMountOptions(v.FSType, a.options)
	return v, a, err
}

// NodeUnstageVolume forgets that the volume was staged. Data stays where it is. A volume that is not staged, or that
// nobody knows, is a success: kubelet has to be able to finish.
func (n *node) NodeUnstageVolume(ctx context.Context, r *csi.NodeUnstageVolumeRequest) (*csi.NodeUnstageVolumeResponse, error) {
	id := r.GetVolumeId()
	if err := pool.ValidateID(id); err != nil {
		return nil, err
	}
	if err := checkPath("staging target path", r.GetStagingTargetPath()); err != nil {
		return nil, err
	}
	present, err := n.staged.Get(ctx, id)
	if errors.Is(err, stage.ErrNotStaged) {
		return &csi.NodeUnstageVolumeResponse{}, n.releaseForgotten(ctx, id, r.GetStagingTargetPath())
	}
	if err != nil {
		return nil, err
	}
	if present.StagingPath != r.GetStagingTargetPath() {
		n.log.WarnContext(ctx, "unstage at a path where the volume is not staged; nothing to do",
			"volume", id, "path", r.GetStagingTargetPath(), "staged", present.StagingPath)
		return &csi.NodeUnstageVolumeResponse{}, nil
	}
	if err := n.checkUnpublished(ctx, id); err != nil {
		return nil, err
	}
	if err := n.letGo(ctx, id); err != nil {
		return nil, err
	}
	if present.FSType == pool.RawBlock {
		if err := n.unstageRaw(ctx, id); err != nil {
			return nil, err
		}
	}
	if err := n.staged.Delete(ctx, id); err != nil {
		return nil, err
	}
	return &csi.NodeUnstageVolumeResponse{}, nil
}

func (n *node) checkUnpublished(ctx context.Context, id string) error {
	v, _ := n.pool.Get(ctx, id)
	v.ID, v.ImagePath = id, n.pool.ImagePath(id) // all there is of a volume that is gone
	publications, err := n.records.of(ctx, v)
	if err != nil {
		return fmt.Errorf("unstage volume %s: %w", id, err)
	}
	if len(publications) > 0 {
		return failf(ErrInUse, "volume %s is still published at %s; unpublish it first", id, publications[0].path)
	}
	return nil
}
