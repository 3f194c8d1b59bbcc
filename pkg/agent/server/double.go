package server

import (
	"context"
	"slices"
	"strings"

	"github.com/katadirect/katadirect/pkg/agentproto"
)

// onlyKatas is set by the linker, and in tests alone: to anything, it makes
// of this agent a double of Kata's, which knows nothing of what ours can do
// beyond it. It is for trying a shim, ours too, with such an agent.
var onlyKatas string

// double answers as Kata's agent does.
type double struct{ *Service }

// GetGuestDetails leaves out what Kata's agent could not say.
func (d double) GetGuestDetails(ctx context.Context, req *agentproto.GuestDetailsRequest) (*agentproto.GuestDetailsResponse, error) {
	answer, err := d.Service.GetGuestDetails(ctx, req)
	if err != nil {
		return nil, err
	}
	answer.AgentDetails.Version, answer.AgentDetails.ExtraFeatures = "double of Kata's", nil
	return answer, nil
}

// CreateContainer does not know our options of storages, and disregards them.
func (d double) CreateContainer(ctx context.Context, req *agentproto.CreateContainerRequest) (*agentproto.Empty, error) {
	for _, s := range req.GetStorages() {
		s.DriverOptions = slices.DeleteFunc(s.DriverOptions, func(o string) bool { return strings.HasPrefix(o, "katadirect.io/") })
	}
	return d.Service.CreateContainer(ctx, req)
}

// ResizeVolume is in Kata's protocol, and not in its agent.
func (d double) ResizeVolume(ctx context.Context, req *agentproto.ResizeVolumeRequest) (*agentproto.Empty, error) {
	return d.Unimplemented.ResizeVolume(ctx, req)
}
