package agentproto

import (
	"context"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// Unimplemented answers every method of the agent service with UNIMPLEMENTED
// and the method's name. A server embeds it and overrides what it offers, so
// that a method nobody wrote is told from one that failed.
type Unimplemented struct{}

var _ AgentServiceService = Unimplemented{}

func unimplemented(method string) error {
	return status.Errorf(codes.Unimplemented, "/grpc.AgentService/%s is not implemented by this agent", method)
}

// CreateContainer answers UNIMPLEMENTED.
func (Unimplemented) CreateContainer(context.Context, *CreateContainerRequest) (*Empty, error) {
	return nil, unimplemented("CreateContainer")
}

// StartContainer answers UNIMPLEMENTED.
func (Unimplemented) StartContainer(context.Context, *StartContainerRequest) (*Empty, error) {
	return nil, unimplemented("StartContainer")
}

// RemoveContainer answers UNIMPLEMENTED.
func (Unimplemented) RemoveContainer(context.Context, *RemoveContainerRequest) (*Empty, error) {
	return nil, unimplemented("RemoveContainer")
}

// ExecProcess answers UNIMPLEMENTED.
func (Unimplemented) ExecProcess(context.Context, *ExecProcessRequest) (*Empty, error) {
	return nil, unimplemented("ExecProcess")
}

// SignalProcess answers UNIMPLEMENTED.
func (Unimplemented) SignalProcess(context.Context, *SignalProcessRequest) (*Empty, error) {
	return nil, unimplemented("SignalProcess")
}

// WaitProcess answers UNIMPLEMENTED.
func (Unimplemented) WaitProcess(context.Context, *WaitProcessRequest) (*WaitProcessResponse, error) {
	return nil, unimplemented("WaitProcess")
}

// UpdateContainer answers UNIMPLEMENTED.
func (Unimplemented) UpdateContainer(context.Context, *UpdateContainerRequest) (*Empty, error) {
	return nil, unimplemented("UpdateContainer")
}

// UpdateEphemeralMounts answers UNIMPLEMENTED.
func (Unimplemented) UpdateEphemeralMounts(context.Context, *UpdateEphemeralMountsRequest) (*Empty, error) {
	return nil, unimplemented("UpdateEphemeralMounts")
}

// StatsContainer answers UNIMPLEMENTED.
func (Unimplemented) StatsContainer(context.Context, *StatsContainerRequest) (*StatsContainerResponse, error) {
	return nil, unimplemented("StatsContainer")
}

// PauseContainer answers UNIMPLEMENTED.
func (Unimplemented) PauseContainer(context.Context, *PauseContainerRequest) (*Empty, error) {
	return nil, unimplemented("PauseContainer")
}

// ResumeContainer answers UNIMPLEMENTED.
func (Unimplemented) ResumeContainer(context.Context, *ResumeContainerRequest) (*Empty, error) {
	return nil, unimplemented("ResumeContainer")
}

// RemoveStaleVirtiofsShareMounts answers UNIMPLEMENTED.
func (Unimplemented) RemoveStaleVirtiofsShareMounts(context.Context, *RemoveStaleVirtiofsShareMountsRequest) (*Empty, error) {
	return nil, unimplemented("RemoveStaleVirtiofsShareMounts")
}

// GetDiagnosticData answers UNIMPLEMENTED.
func (Unimplemented) GetDiagnosticData(context.Context, *GetDiagnosticDataRequest) (*GetDiagnosticDataResponse, error) {
	return nil, unimplemented("GetDiagnosticData")
}

// WriteStdin answers UNIMPLEMENTED.
func (Unimplemented) WriteStdin(context.Context, *WriteStreamRequest) (*WriteStreamResponse, error) {
	return nil, unimplemented("WriteStdin")
}

// ReadStdout answers UNIMPLEMENTED.
func (Unimplemented) ReadStdout(context.Context, *ReadStreamRequest) (*ReadStreamResponse, error) {
	return nil, unimplemented("ReadStdout")
}

// ReadStderr answers UNIMPLEMENTED.
func (Unimplemented) ReadStderr(context.Context, *ReadStreamRequest) (*ReadStreamResponse, error) {
	return nil, unimplemented("ReadStderr")
}

// CloseStdin answers UNIMPLEMENTED.
func (Unimplemented) CloseStdin(context.Context, *CloseStdinRequest) (*Empty, error) {
	return nil, unimplemented("CloseStdin")
}

// TtyWinResize answers UNIMPLEMENTED.
func (Unimplemented) TtyWinResize(context.Context, *TtyWinResizeRequest) (*Empty, error) {
	return nil, unimplemented("TtyWinResize")
}

// UpdateInterface answers UNIMPLEMENTED.
func (Unimplemented) UpdateInterface(context.Context, *UpdateInterfaceRequest) (*Interface, error) {
	return nil, unimplemented("UpdateInterface")
}

// UpdateRoutes answers UNIMPLEMENTED.
func (Unimplemented) UpdateRoutes(context.Context, *UpdateRoutesRequest) (*Routes, error) {
	return nil, unimplemented("UpdateRoutes")
}

// ListInterfaces answers UNIMPLEMENTED.
func (Unimplemented) ListInterfaces(context.Context, *ListInterfacesRequest) (*Interfaces, error) {
	return nil, unimplemented("ListInterfaces")
}

// ListRoutes answers UNIMPLEMENTED.
func (Unimplemented) ListRoutes(context.Context, *ListRoutesRequest) (*Routes, error) {
	return nil, unimplemented("ListRoutes")
}

// AddARPNeighbors answers UNIMPLEMENTED.
func (Unimplemented) AddARPNeighbors(context.Context, *AddARPNeighborsRequest) (*Empty, error) {
	return nil, unimplemented("AddARPNeighbors")
}

// GetIPTables answers UNIMPLEMENTED.
func (Unimplemented) GetIPTables(context.Context, *GetIPTablesRequest) (*GetIPTablesResponse, error) {
	return nil, unimplemented("GetIPTables")
}

// SetIPTables answers UNIMPLEMENTED.
func (Unimplemented) SetIPTables(context.Context, *SetIPTablesRequest) (*SetIPTablesResponse, error) {
	return nil, unimplemented("SetIPTables")
}

// GetMetrics answers UNIMPLEMENTED.
func (Unimplemented) GetMetrics(context.Context, *GetMetricsRequest) (*Metrics, error) {
	return nil, unimplemented("GetMetrics")
}

// MemAgentMemcgSet answers UNIMPLEMENTED.
func (Unimplemented) MemAgentMemcgSet(context.Context, *MemAgentMemcgConfig) (*Empty, error) {
	return nil, unimplemented("MemAgentMemcgSet")
}

// MemAgentCompactSet answers UNIMPLEMENTED.
func (Unimplemented) MemAgentCompactSet(context.Context, *MemAgentCompactConfig) (*Empty, error) {
	return nil, unimplemented("MemAgentCompactSet")
}

// CreateSandbox answers UNIMPLEMENTED.
func (Unimplemented) CreateSandbox(context.Context, *CreateSandboxRequest) (*Empty, error) {
	return nil, unimplemented("CreateSandbox")
}

// DestroySandbox answers UNIMPLEMENTED.
func (Unimplemented) DestroySandbox(context.Context, *DestroySandboxRequest) (*Empty, error) {
	return nil, unimplemented("DestroySandbox")
}

// OnlineCPUMem answers UNIMPLEMENTED.
func (Unimplemented) OnlineCPUMem(context.Context, *OnlineCPUMemRequest) (*Empty, error) {
	return nil, unimplemented("OnlineCPUMem")
}

// ReseedRandomDev answers UNIMPLEMENTED.
func (Unimplemented) ReseedRandomDev(context.Context, *ReseedRandomDevRequest) (*Empty, error) {
	return nil, unimplemented("ReseedRandomDev")
}

// GetGuestDetails answers UNIMPLEMENTED.
func (Unimplemented) GetGuestDetails(context.Context, *GuestDetailsRequest) (*GuestDetailsResponse, error) {
	return nil, unimplemented("GetGuestDetails")
}

// MemHotplugByProbe answers UNIMPLEMENTED.
func (Unimplemented) MemHotplugByProbe(context.Context, *MemHotplugByProbeRequest) (*Empty, error) {
	return nil, unimplemented("MemHotplugByProbe")
}

// SetGuestDateTime answers UNIMPLEMENTED.
func (Unimplemented) SetGuestDateTime(context.Context, *SetGuestDateTimeRequest) (*Empty, error) {
	return nil, unimplemented("SetGuestDateTime")
}

// CopyFile answers UNIMPLEMENTED.
func (Unimplemented) CopyFile(context.Context, *CopyFileRequest) (*Empty, error) {
	return nil, unimplemented("CopyFile")
}

// GetOOMEvent answers UNIMPLEMENTED.
func (Unimplemented) GetOOMEvent(context.Context, *GetOOMEventRequest) (*OOMEvent, error) {
	return nil, unimplemented("GetOOMEvent")
}

// AddSwap answers UNIMPLEMENTED.
func (Unimplemented) AddSwap(context.Context, *AddSwapRequest) (*Empty, error) {
	return nil, unimplemented("AddSwap")
}

// AddSwapPath answers UNIMPLEMENTED.
func (Unimplemented) AddSwapPath(context.Context, *AddSwapPathRequest) (*Empty, error) {
	return nil, unimplemented("AddSwapPath")
}

// GetVolumeStats answers UNIMPLEMENTED.
func (Unimplemented) GetVolumeStats(context.Context, *VolumeStatsRequest) (*VolumeStatsResponse, error) {
	return nil, unimplemented("GetVolumeStats")
}

// ResizeVolume answers UNIMPLEMENTED.
func (Unimplemented) ResizeVolume(context.Context, *ResizeVolumeRequest) (*Empty, error) {
	return nil, unimplemented("ResizeVolume")
}

// SetPolicy answers UNIMPLEMENTED.
func (Unimplemented) SetPolicy(context.Context, *SetPolicyRequest) (*Empty, error) {
	return nil, unimplemented("SetPolicy")
}
