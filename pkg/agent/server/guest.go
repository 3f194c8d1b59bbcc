package server

import (
	"context"
	"fmt"

	"github.com/katadirect/katadirect/internal/version"
	"github.com/katadirect/katadirect/pkg/agent/device"
	"github.com/katadirect/katadirect/pkg/agent/guest"
	"github.com/katadirect/katadirect/pkg/agentproto"
)

// OnlineCPUMem brings plugged processors and memory into use.
func (s *Service) OnlineCPUMem(ctx context.Context, req *agentproto.OnlineCPUMemRequest) (*agentproto.Empty, error) {
	return empty, guest.Online(ctx, req.GetNbCpus(), req.GetWait(), req.GetCpuOnly())
}

// MemHotplugByProbe announces plugged memory to the kernel.
func (s *Service) MemHotplugByProbe(_ context.Context, req *agentproto.MemHotplugByProbeRequest) (*agentproto.Empty, error) {
	return empty, guest.ProbeMemory(req.GetMemHotplugProbeAddr())
}

// ReseedRandomDev mixes the host's random numbers into the guest's.
func (s *Service) ReseedRandomDev(_ context.Context, req *agentproto.ReseedRandomDevRequest) (*agentproto.Empty, error) {
	return empty, guest.Reseed(req.GetData())
}

// SetGuestDateTime sets the clock.
func (s *Service) SetGuestDateTime(_ context.Context, req *agentproto.SetGuestDateTimeRequest) (*agentproto.Empty, error) {
	return empty, guest.SetTime(req.GetSec(), req.GetUsec())
}

// CopyFile puts a file into the shared folder.
func (s *Service) CopyFile(_ context.Context, req *agentproto.CopyFileRequest) (*agentproto.Empty, error) {
	return empty, guest.CopyFile(guest.File{
		Path: req.GetPath(), Size: req.GetFileSize(), Mode: req.GetFileMode(), DirMode: req.GetDirMode(),
		UID: int(req.GetUid()), GID: int(req.GetGid()), Offset: req.GetOffset(), Data: req.GetData(),
	})
}

// AddSwap brings a plugged disk that is formatted as swap into use.
func (s *Service) AddSwap(ctx context.Context, req *agentproto.AddSwapRequest) (*agentproto.Empty, error) {
	var path device.PCIPath
	for _, slot := range req.GetPCIPath() {
		if slot > 31 {
			return nil, fmt.Errorf("%w: slot %d", device.ErrAddress, slot)
		}
		path.Slots = append(path.Slots, device.PCISlot{Device: uint8(slot)})
	}
	ctx, cancel := context.WithTimeout(ctx, device.DefaultTimeout)
	defer cancel()
	disk, err := s.Sandbox.Mounts.Finder.DiskByPCIPath(ctx, path)
	if err != nil {
		return nil, err
	}
	return empty, guest.SwapOn(disk.Node)
}

// AddSwapPath brings a swap device or file into use.
func (s *Service) AddSwapPath(_ context.Context, req *agentproto.AddSwapPathRequest) (*agentproto.Empty, error) {
	return empty, guest.SwapOn(req.GetPath())
}

// GetMetrics returns the guest's figures as Prometheus text.
func (s *Service) GetMetrics(context.Context, *agentproto.GetMetricsRequest) (*agentproto.Metrics, error) {
	return &agentproto.Metrics{Metrics: guest.Metrics()}, nil
}

// UpdateInterface sets an interface up. It answers with the request's, as
// Kata's agent does.
func (s *Service) UpdateInterface(ctx context.Context, req *agentproto.UpdateInterfaceRequest) (*agentproto.Interface, error) {
	return req.GetInterface(), s.Network.UpdateInterface(ctx, req.GetInterface())
}

// UpdateRoutes replaces the routes, and answers with all that are there then.
func (s *Service) UpdateRoutes(_ context.Context, req *agentproto.UpdateRoutesRequest) (*agentproto.Routes, error) {
	if err := s.Network.UpdateRoutes(req.GetRoutes().GetRoutes()); err != nil {
		return nil, err
	}
	routes, err := s.Network.Routes()
	return &agentproto.Routes{Routes: routes}, err
}

// ListInterfaces lists the interfaces.
func (s *Service) ListInterfaces(context.Context, *agentproto.ListInterfacesRequest) (*agentproto.Interfaces, error) {
	list, err := s.Network.Interfaces()
	return &agentproto.Interfaces{Interfaces: list}, err
}

// ListRoutes lists the routes.
func (s *Service) ListRoutes(context.Context, *agentproto.ListRoutesRequest) (*agentproto.Routes, error) {
	routes, err := s.Network.Routes()
	return &agentproto.Routes{Routes: routes}, err
}

// AddARPNeighbors adds neighbours.
func (s *Service) AddARPNeighbors(_ context.Context, req *agentproto.AddARPNeighborsRequest) (*agentproto.Empty, error) {
	return empty, s.Network.AddNeighbors(req.GetNeighbors().GetARPNeighbors())
}

// GetIPTables returns the rules of packet filtering and address translation.
func (s *Service) GetIPTables(ctx context.Context, req *agentproto.GetIPTablesRequest) (*agentproto.GetIPTablesResponse, error) {
	data, err := s.Network.IPTables(ctx, req.GetIsIpv6())
	return &agentproto.GetIPTablesResponse{Data: data}, err
}

// SetIPTables replaces them.
func (s *Service) SetIPTables(ctx context.Context, req *agentproto.SetIPTablesRequest) (*agentproto.SetIPTablesResponse, error) {
	data, err := s.Network.SetIPTables(ctx, req.GetIsIpv6(), req.GetData())
	return &agentproto.SetIPTablesResponse{Data: data}, err
}

// health is the service grpc.Health.
type health struct{}

// Check answers that the agent serves; it does, or could not answer.
func (health) Check(context.Context, *agentproto.CheckRequest) (*agentproto.HealthCheckResponse, error) {
	return &agentproto.HealthCheckResponse{Status: agentproto.HealthCheckResponse_SERVING}, nil
}

// Version returns the protocol's and the agent's version.
func (health) Version(context.Context, *agentproto.CheckRequest) (*agentproto.VersionCheckResponse, error) {
	const protocol = "0.0.1" // as Kata's agent says
	return &agentproto.VersionCheckResponse{GrpcVersion: protocol, AgentVersion: version.Version}, nil
}
