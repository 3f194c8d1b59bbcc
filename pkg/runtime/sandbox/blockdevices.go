package sandbox

import (
	"context"
	"fmt"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/katadirect/katadirect/pkg/agentproto"
	"github.com/katadirect/katadirect/pkg/runtime/sandbox/guestspec"
	"github.com/katadirect/katadirect/pkg/runtime/volume"
)

// blockDevices plugs in the block devices that the container was given (volumeMode: Block), and says what the agent is
// to make of them. The caller detaches them.
//
// A device that somebody chose for this container has a path of its own choice. All those of the host, which a
// privileged container gets unless containerd is told otherwise, are nobody's choice, and none of them is plugged in.
func (s *Sandbox) blockDevices(ctx context.Context, r ContainerRequest) ([]*agentproto.Device, error) {
	if r.Spec.Linux == nil {
		return nil, nil
	}
	var devices []*agentproto.Device
	for _, d := range r.Spec.Linux.Devices {
		if !guestspec.IsBlock(d) {
			continue
		}
		if guestspec.HasHostDevices(r.Spec, d) {
			return nil, fmt.Errorf("block device %s of the host: %w; for a privileged container set "+
				"privileged_without_host_devices in containerd's configuration of the runtime", d.Path, guestspec.ErrUnsupported)
		}
		node, err := volume.HostDevice(d.Major, d.Minor)
		if err != nil {
			return nil, fmt.Errorf("device %s: %w", d.Path, err)
		}
		access := guestspec.Access(r.Spec, d)
		if !strings.ContainsAny(access, "rw") {
			return nil, fmt.Errorf("device %s: %w: no rule lets the container read or write it", d.Path, guestspec.ErrUnsupported)
		}
		// Our agent keeps each container to its rule. Where nobody does, the machine is kept to it.
		readOnly := !strings.Contains(access, "w") && !s.features.DeviceRules
		at, err := s.volumes.AttachRaw(ctx, r.ID, node, readOnly)
		if err != nil {
			return nil, fmt.Errorf("device %s: %w", d.Path, err)
		}
		device := &agentproto.Device{Id: at.Source, Type: at.Driver, ContainerPath: d.Path}
		if access != "rwm" && s.features.DeviceRules {
			device.Options = []string{"katadirect.io/access=" + access}
		}
		devices = append(devices, device)
	}
	return devices, nil
}

func containerPaths(devices []*agentproto.Device) []string {
	var paths []string
	for _, d := range devices {
		paths = append(paths, d.GetContainerPath())
	}
	return paths
}

// deviceRules are sent to an agent that applies them. Kata's shim sends none, so Kata's agent gets none.
func (s *Sandbox) deviceRules(spec *specs.Spec) []specs.LinuxDeviceCgroup {
	if !s.features.DeviceRules {
		return nil
	}
	return guestspec.DeviceRules(spec)
}
