package csi

import (
	"cmp"
	"context"
	"errors"
	"log/slog"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/katadirect/katadirect/pkg/csi/loop"
	"github.com/katadirect/katadirect/pkg/csi/pool"
	"github.com/katadirect/katadirect/pkg/csi/stage"
)

// controller is the controller service of one node's pool. What is not defined here is answered UNIMPLEMENTED.
type controller struct {
	csi.UnimplementedControllerServer
	pool     *pool.Pool
	loops    *loop.Devices
	staged   *stage.Store
	records  records
	jobs     *jobs
	capturer *capturer
	topology topology
	// maxVolumes is how many volumes may be attached to this node.
	maxVolumes int
	checkup    *checkup
	log        *slog.Logger
	modes      modes
}

func (c *controller) ControllerGetCapabilities(context.Context, *csi.ControllerGetCapabilitiesRequest) (*csi.ControllerGetCapabilitiesResponse, error) {
	var all []*csi.ControllerServiceCapability
	for _, t := range []csi.ControllerServiceCapability_RPC_Type{
		csi.ControllerServiceCapability_RPC_CREATE_DELETE_VOLUME,
		csi.ControllerServiceCapability_RPC_GET_CAPACITY,
		csi.ControllerServiceCapability_RPC_PUBLISH_UNPUBLISH_VOLUME,
		csi.ControllerServiceCapability_RPC_PUBLISH_READONLY,
		csi.ControllerServiceCapability_RPC_LIST_VOLUMES,
		csi.ControllerServiceCapability_RPC_LIST_VOLUMES_PUBLISHED_NODES,
		csi.ControllerServiceCapability_RPC_GET_VOLUME,
		csi.ControllerServiceCapability_RPC_EXPAND_VOLUME,
		csi.ControllerServiceCapability_RPC_CREATE_DELETE_SNAPSHOT,
		csi.ControllerServiceCapability_RPC_LIST_SNAPSHOTS,
		csi.ControllerServiceCapability_RPC_GET_SNAPSHOT,
		csi.ControllerServiceCapability_RPC_CLONE_VOLUME,
		csi.ControllerServiceCapability_RPC_SINGLE_NODE_MULTI_WRITER,
		csi.ControllerServiceCapability_RPC_GET_VOLUME_HEALTH,
		csi.ControllerServiceCapability_RPC_LIST_VOLUME_HEALTH,
		csi.ControllerServiceCapability_RPC_MODIFY_VOLUME,
	} {
		all = append(all, &csi.ControllerServiceCapability{
			Type: &csi.ControllerServiceCapability_Rpc{Rpc: &csi.ControllerServiceCapability_RPC{Type: t}},
		})
	}
	return &csi.ControllerGetCapabilitiesResponse{Capabilities: all}, nil
}

func (c *controller) CreateVolume(ctx context.Context, r *csi.CreateVolumeRequest) (*csi.CreateVolumeResponse, error) {
	if r.GetName() == "" {
		return nil, failf(ErrInvalidArgument, "the volume's name is missing")
	}
	source, err := parseSource(r.GetVolumeContentSource())
	if err != nil {
		return nil, err
	}
	params, fsType, err := parseClass(r.GetParameters(), r.GetVolumeCapabilities())
	if err != nil {
		return nil, err
	}
	if err := params.checkFor(fsType); err != nil {
		return nil, err
	}
	if err := c.modes.accept(params.mode); err != nil {
		return nil, err
	}
	size, err := parseSize(r.GetCapacityRange())
	if err != nil {
		return nil, err
	}
	if err := c.topology.accept(r.GetAccessibilityRequirements()); err != nil {
		return nil, err
	}
	v, err := c.makeVolume(ctx, params, pool.Spec{
		Name: r.GetName(), FSType: fsType, Parameters: params.stored(), Size: size, Overcommit: params.overcommit,
		Source: source,
	})
	if err != nil {
		return nil, err
	}
	return &csi.CreateVolumeResponse{Volume: c.volume(v)}, nil
}

// parseClass checks the parameters and capabilities and returns the file system they agree on.
func parseClass(given map[string]string, capabilities []*csi.VolumeCapability) (parameters, string, error) {
	accesses, err := parseAccesses(capabilities)
	if err != nil {
		return parameters{}, "", err
	}
	p, err := parseParameters(given)
	if err != nil {
		return parameters{}, "", err
	}
	fsType, err := singleFSType(accesses, p.fsType)
	return p, fsType, err
}

// parseSize reads a capacity range. None at all means the default size; one that says nothing is an error (CSI:
// "at least one of the fields MUST be specified").
func parseSize(r *csi.CapacityRange) (pool.SizeRange, error) {
	size := pool.SizeRange{RequiredBytes: r.GetRequiredBytes(), LimitBytes: r.GetLimitBytes()}
	if size.RequiredBytes < 0 || size.LimitBytes < 0 {
		return size, failf(ErrInvalidArgument, "the capacity range is negative: required %d, limit %d",
			size.RequiredBytes, size.LimitBytes)
	}
	if r != nil && size == (pool.SizeRange{}) {
		return size, failf(ErrInvalidArgument, "the capacity range says neither what is required nor a limit: a volume of 0 bytes cannot be made")
	}
	return size, nil
}

// DeleteVolume deletes the volume with its data, unless anything on this node still says that it is in use.
func (c *controller) DeleteVolume(ctx context.Context, r *csi.DeleteVolumeRequest) (*csi.DeleteVolumeResponse, error) {
	id := r.GetVolumeId()
	if err := pool.ValidateID(id); err != nil {
		return nil, err
	}
	if err := c.checkDetached(id); err != nil {
		return nil, err
	}
	if err := c.checkUnused(ctx, id); err != nil {
		return nil, err
	}
	if err := c.detachLeftover(ctx, id); err != nil {
		return nil, err
	}
	if err := c.pool.Delete(ctx, id); err != nil {
		return nil, err
	}
	c.checkup.forget(id)
	return &csi.DeleteVolumeResponse{}, nil
}

// checkUnused refuses while the volume is staged, recorded or claimed.
func (c *controller) checkUnused(ctx context.Context, id string) error {
	switch s, err := c.staged.Get(ctx, id); {
	case err == nil:
		return failf(ErrInUse, "volume %s is staged at %s; it can be deleted when no pod on this node uses it", id, s.StagingPath)
	case !errors.Is(err, stage.ErrNotStaged):
		return err // it may be
	}
	v, _ := c.pool.Get(ctx, id)
	v.ID, v.ImagePath = id, c.pool.ImagePath(id) // of a damaged or unknown volume this is all there is
	publications, err := c.records.of(ctx, v)
	if err != nil {
		return err
	}
	if len(publications) == 0 {
		return nil
	}
	p := publications[0]
	if len(p.sandboxes) > 0 {
		return failf(ErrInUse, "volume %s is in use by sandbox %s through %s; end that pod first", id, p.sandboxes[0], p.path)
	}
	return failf(ErrInUse, "volume %s is published at %s; it can be deleted when it is unpublished", id, p.path)
}

func (c *controller) ValidateVolumeCapabilities(ctx context.Context, r *csi.ValidateVolumeCapabilitiesRequest) (*csi.ValidateVolumeCapabilitiesResponse, error) {
	if err := pool.ValidateID(r.GetVolumeId()); err != nil {
		return nil, err
	}
	if len(r.GetVolumeCapabilities()) == 0 {
		return nil, failf(ErrInvalidArgument, "the volume capabilities are missing")
	}
	v, err := c.pool.Get(ctx, r.GetVolumeId())
	if err != nil {
		return nil, err
	}
	params, fsType, err := parseClass(r.GetParameters(), r.GetVolumeCapabilities())
	if err == nil && fsType != v.FSType && (anyFSType(r) || fsType == pool.RawBlock || isRaw(v)) {
		err = failf(ErrInvalidArgument, "the volume has %s, not %s", v.FSType, fsType)
	}
	if err == nil {
		err = params.checkFor(v.FSType)
	}
	if err != nil {
		return &csi.ValidateVolumeCapabilitiesResponse{Message: err.Error()}, nil
	}
	return &csi.ValidateVolumeCapabilitiesResponse{Confirmed: &csi.ValidateVolumeCapabilitiesResponse_Confirmed{
		VolumeContext:      r.GetVolumeContext(),
		VolumeCapabilities: r.GetVolumeCapabilities(),
		Parameters:         r.GetParameters(),
	}}, nil
}

// anyFSType reports whether a request says which file system it wants; if not, the volume's own is right.
func anyFSType(r *csi.ValidateVolumeCapabilitiesRequest) bool {
	for _, c := range r.GetVolumeCapabilities() {
		if c.GetMount().GetFsType() != "" {
			return true
		}
	}
	return r.GetParameters()[parameterFSType] != ""
}

// GetCapacity answers for volumes as the parameters and capabilities describe them; there is no room on other nodes.
//
// What CreateVolume would refuse for its words has as much room as if the words were not there. Neither an error nor 0
// would do: with storage capacity tracked the scheduler sends no pod to where no capacity is known, and then nobody asks
// for the volume, and nobody hears why it cannot be made.
func (c *controller) GetCapacity(ctx context.Context, r *csi.GetCapacityRequest) (*csi.GetCapacityResponse, error) {
	if !c.topology.holds(r.GetAccessibleTopology()) {
		return &csi.GetCapacityResponse{}, nil
	}
	capacity, err := c.capacityOf(ctx, r)
	if status.Code(toStatus(err)) == codes.InvalidArgument {
		c.log.Debug("capacity of what would be refused", "reason", err)
		capacity, err = c.pool.Capacity(ctx, pool.Spec{FSType: defaultFSType})
	}
	if err != nil {
		return nil, err
	}
	return &csi.GetCapacityResponse{
		AvailableCapacity: capacity.AvailableBytes,
		MaximumVolumeSize: wrapperspb.Int64(capacity.MaximumVolumeBytes),
		MinimumVolumeSize: wrapperspb.Int64(capacity.MinimumVolumeBytes),
	}, nil
}

// capacityOf is what there is of the volumes that a question is about, or why they would be refused.
func (c *controller) capacityOf(ctx context.Context, r *csi.GetCapacityRequest) (none pool.Capacity, err error) {
	params, err := parseParameters(r.GetParameters())
	if err != nil {
		return none, err
	}
	if err := c.modes.accept(params.mode); err != nil {
		return none, err
	}
	fsType := params.fsType
	if len(r.GetVolumeCapabilities()) > 0 {
		if _, fsType, err = parseClass(r.GetParameters(), r.GetVolumeCapabilities()); err != nil {
			return none, err
		}
	}
	fsType = cmp.Or(fsType, defaultFSType)
	if err := params.checkFor(fsType); err != nil {
		return none, err
	}
	return c.pool.Capacity(ctx, pool.Spec{FSType: fsType, Overcommit: params.overcommit})
}

// ControllerExpandVolume changes nothing: the node that has the volume grows it in NodeExpandVolume. It may be asked
// on any node, so for a volume of another one the id and the request must do; for one of this node it says at once
// what NodeExpandVolume would say.
func (c *controller) ControllerExpandVolume(ctx context.Context, r *csi.ControllerExpandVolumeRequest) (*csi.ControllerExpandVolumeResponse, error) {
	id := r.GetVolumeId()
	if err := pool.ValidateID(id); err != nil {
		return nil, err
	}
	if r.GetCapacityRange() == nil {
		return nil, failf(ErrInvalidArgument, "the capacity range is missing")
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
	sizeBytes, err := c.sizeAfterGrow(ctx, id, size)
	if err != nil {
		return nil, err
	}
	return &csi.ControllerExpandVolumeResponse{CapacityBytes: sizeBytes, NodeExpansionRequired: true}, nil
}

func (c *controller) sizeAfterGrow(ctx context.Context, id string, size pool.SizeRange) (int64, error) {
	sizeBytes, err := c.pool.CheckGrow(ctx, id, size)
	if errors.Is(err, pool.ErrNotFound) && pool.IsPoolID(id) && !c.pool.Local(id) {
		return size.Wanted()
	}
	return sizeBytes, err
}
