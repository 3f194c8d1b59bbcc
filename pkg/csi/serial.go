package csi

import (
	"context"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/protobuf/proto"

	"github.com/katadirect/katadirect/pkg/directvolume"
)

// serialController lets one call at a time through for each volume; a second one is ErrBusy at once. Calls that
// change nothing pass freely: a stats call that waits for a guest must not keep a pod from ending.
type serialController struct {
	csi.ControllerServer
	locks *locks
	jobs  *jobs
	idOf  func(name string) string // the id that a volume of that name has
}

// serialNode does the same for the node service. Publishing and unpublishing hold the target path too, so that two
// volumes cannot race for one path.
type serialNode struct {
	csi.NodeServer
	locks *locks
	idOf  func(name string) string
}

// alone runs call while it holds names.
func alone[Request, Response any](
	l *locks, call func(context.Context, Request) (Response, error), ctx context.Context, r Request, names ...string,
) (Response, error) {
	release, taken := l.try(names...)
	if release == nil {
		var none Response
		return none, failf(ErrBusy, "another call for %s is under way; repeat this one when it has ended", taken)
	}
	defer release()
	return call(ctx, r)
}

func (s serialController) CreateVolume(ctx context.Context, r *csi.CreateVolumeRequest) (*csi.CreateVolumeResponse, error) {
	if r.GetVolumeContentSource() != nil {
		return s.copyVolume(ctx, r)
	}
	return alone(s.locks, s.ControllerServer.CreateVolume, ctx, r, s.idOf(r.GetName()))
}

// copyVolume lets a copy be made, which is a job with locks of its own. Only what comes after that is done under the
// volume's lock: the call, made again, finds the volume and gives it its limits.
func (s serialController) copyVolume(ctx context.Context, r *csi.CreateVolumeRequest) (*csi.CreateVolumeResponse, error) {
	if len(r.GetMutableParameters()) == 0 {
		return s.ControllerServer.CreateVolume(ctx, r)
	}
	change, err := parseChange(r.GetMutableParameters())
	if err == nil {
		_, err = change.of(directvolume.Limits{}) // before there is a volume
	}
	if err != nil {
		return nil, err
	}
	unlimited := proto.Clone(r).(*csi.CreateVolumeRequest)
	unlimited.MutableParameters = nil
	if made, err := s.ControllerServer.CreateVolume(ctx, unlimited); err != nil {
		return made, err
	}
	return alone(s.locks, s.ControllerServer.CreateVolume, ctx, r, s.idOf(r.GetName()))
}

func (s serialController) DeleteVolume(ctx context.Context, r *csi.DeleteVolumeRequest) (*csi.DeleteVolumeResponse, error) {
	if err := s.jobs.stop(ctx, r.GetVolumeId()); err != nil { // it may still be in the making
		return nil, err
	}
	return alone(s.locks, s.ControllerServer.DeleteVolume, ctx, r, r.GetVolumeId())
}

func (s serialController) ControllerPublishVolume(ctx context.Context, r *csi.ControllerPublishVolumeRequest) (*csi.ControllerPublishVolumeResponse, error) {
	return alone(s.locks, s.ControllerServer.ControllerPublishVolume, ctx, r, r.GetVolumeId())
}

func (s serialController) ControllerUnpublishVolume(ctx context.Context, r *csi.ControllerUnpublishVolumeRequest) (*csi.ControllerUnpublishVolumeResponse, error) {
	return alone(s.locks, s.ControllerServer.ControllerUnpublishVolume, ctx, r, r.GetVolumeId())
}

func (s serialController) ControllerExpandVolume(ctx context.Context, r *csi.ControllerExpandVolumeRequest) (*csi.ControllerExpandVolumeResponse, error) {
	return alone(s.locks, s.ControllerServer.ControllerExpandVolume, ctx, r, r.GetVolumeId())
}

func (s serialController) ControllerModifyVolume(ctx context.Context, r *csi.ControllerModifyVolumeRequest) (*csi.ControllerModifyVolumeResponse, error) {
	return alone(s.locks, s.ControllerServer.ControllerModifyVolume, ctx, r, r.GetVolumeId())
}

func (s serialNode) NodeStageVolume(ctx context.Context, r *csi.NodeStageVolumeRequest) (*csi.NodeStageVolumeResponse, error) {
	return alone(s.locks, s.NodeServer.NodeStageVolume, ctx, r, r.GetVolumeId())
}

func (s serialNode) NodeUnstageVolume(ctx context.Context, r *csi.NodeUnstageVolumeRequest) (*csi.NodeUnstageVolumeResponse, error) {
	return alone(s.locks, s.NodeServer.NodeUnstageVolume, ctx, r, r.GetVolumeId())
}

func (s serialNode) NodePublishVolume(ctx context.Context, r *csi.NodePublishVolumeRequest) (*csi.NodePublishVolumeResponse, error) {
	return alone(s.locks, s.NodeServer.NodePublishVolume, ctx, r, poolIDOf(s.idOf, r.GetVolumeId()), r.GetTargetPath())
}

func (s serialNode) NodeUnpublishVolume(ctx context.Context, r *csi.NodeUnpublishVolumeRequest) (*csi.NodeUnpublishVolumeResponse, error) {
	return alone(s.locks, s.NodeServer.NodeUnpublishVolume, ctx, r, poolIDOf(s.idOf, r.GetVolumeId()), r.GetTargetPath())
}

func (s serialNode) NodeExpandVolume(ctx context.Context, r *csi.NodeExpandVolumeRequest) (*csi.NodeExpandVolumeResponse, error) {
	return alone(s.locks, s.NodeServer.NodeExpandVolume, ctx, r, r.GetVolumeId())
}
