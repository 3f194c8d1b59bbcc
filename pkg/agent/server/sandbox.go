package server

import (
	"context"

	"github.com/katadirect/katadirect/internal/condition"
	"github.com/katadirect/katadirect/internal/filesystem"
	"github.com/katadirect/katadirect/internal/version"
	"github.com/katadirect/katadirect/pkg/agent/guest"
	"github.com/katadirect/katadirect/pkg/agent/storage"
	"github.com/katadirect/katadirect/pkg/agentproto"
)

// Features that Kata's agent does not have. A shim reads them in
// GetGuestDetails.
const (
	FeatureResizeVolume  = "katadirect.resize-volume"
	FeatureFormatIfBlank = "katadirect.format-if-blank"
	FeatureGrowOnMount   = "katadirect.grow-on-mount"
	FeatureFreeze        = "katadirect.freeze"
	FeatureSubPath       = "katadirect.subpath"
	FeatureDeviceRules   = "katadirect.device-rules"
)

// CreateSandbox makes what the pod's containers share.
func (s *Service) CreateSandbox(ctx context.Context, req *agentproto.CreateSandboxRequest) (*agentproto.Empty, error) {
	return empty, s.Sandbox.Create(ctx, req)
}

// DestroySandbox ends the pod, and, when that is answered, the machine.
func (s *Service) DestroySandbox(ctx context.Context, _ *agentproto.DestroySandboxRequest) (*agentproto.Empty, error) {
	err := s.Sandbox.Destroy(ctx)
	if s.End != nil {
		s.End()
	}
	return empty, err
}

// GetGuestDetails says what this machine and agent are and can do.
func (s *Service) GetGuestDetails(_ context.Context, req *agentproto.GuestDetailsRequest) (*agentproto.GuestDetailsResponse, error) {
	answer := &agentproto.GuestDetailsResponse{
		AgentDetails: &agentproto.AgentDetails{
			Version:         version.Version,
			InitDaemon:      true,
			StorageHandlers: storage.Drivers(),
			SupportsSeccomp: true,
			ExtraFeatures: []string{FeatureResizeVolume, FeatureFormatIfBlank, FeatureGrowOnMount, FeatureFreeze,
				FeatureSubPath, FeatureDeviceRules, FeatureOutput, FeaturePorts},
		},
	}
	if s.Console != nil {
		answer.AgentDetails.ExtraFeatures = append(answer.AgentDetails.ExtraFeatures, FeatureConsole)
	}
	if req.GetMemBlockSize() {
		size, err := guest.MemoryBlockSize()
		if err != nil {
			return nil, err
		}
		answer.MemBlockSizeBytes = size
	}
	if req.GetMemHotplugProbe() {
		answer.SupportMemHotplugProbe = guest.CanProbeMemory()
	}
	return answer, nil
}

// GetOOMEvent waits for the kernel to kill a container's process for want of
// memory.
func (s *Service) GetOOMEvent(ctx context.Context, _ *agentproto.GetOOMEventRequest) (*agentproto.OOMEvent, error) {
	id, err := s.Sandbox.NextOOM(ctx)
	if err != nil {
		return nil, err
	}
	return &agentproto.OOMEvent{ContainerId: id}, nil
}

// GetVolumeStats measures a volume.
func (s *Service) GetVolumeStats(ctx context.Context, req *agentproto.VolumeStatsRequest) (*agentproto.VolumeStatsResponse, error) {
	health, err := s.Sandbox.Mounts.Health(ctx, req.GetVolumeGuestPath())
	if err != nil {
		return nil, err
	}
	return &agentproto.VolumeStatsResponse{
		Usage: usage(health.Usage),
		VolumeCondition: &agentproto.VolumeCondition{
			Abnormal: len(health.Problems) > 0, Message: condition.Format(health.Problems...),
		},
	}, nil
}

func usage(u filesystem.Usage) []*agentproto.VolumeUsage {
	out := []*agentproto.VolumeUsage{{
		Unit: agentproto.VolumeUsage_BYTES, Total: u.Total, Available: u.Available, Used: u.Used,
	}}
	if u.Inodes > 0 {
		out = append(out, &agentproto.VolumeUsage{
			Unit: agentproto.VolumeUsage_INODES, Total: u.Inodes, Available: u.InodesFree, Used: u.InodesUsed,
		})
	}
	return out
}

// ResizeVolume grows a volume's file system to the size of its device.
func (s *Service) ResizeVolume(ctx context.Context, req *agentproto.ResizeVolumeRequest) (*agentproto.Empty, error) {
	return empty, s.Sandbox.Mounts.Resize(ctx, req.GetVolumeGuestPath(), req.GetSize())
}

// UpdateEphemeralMounts gives folders in memory another size.
func (s *Service) UpdateEphemeralMounts(ctx context.Context, req *agentproto.UpdateEphemeralMountsRequest) (*agentproto.Empty, error) {
	for _, st := range req.GetStorages() {
		if err := s.Sandbox.Mounts.Remount(ctx, st); err != nil {
			return nil, err
		}
	}
	return empty, nil
}
