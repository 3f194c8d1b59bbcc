package sandbox

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/katadirect/katadirect/pkg/agent/container"
	"github.com/katadirect/katadirect/pkg/agent/device"
	"github.com/katadirect/katadirect/pkg/agentproto"
)

// addDevices gives a container the disks that a shim has plugged for it, at
// the paths that the specification names. The numbers in there are the host's.
func (s *Sandbox) addDevices(ctx context.Context, spec *specs.Spec, devices []*agentproto.Device) error {
	for _, d := range devices {
		if spec.Linux == nil || !filepath.IsAbs(d.GetContainerPath()) {
			return fmt.Errorf("device %q at %q: %w", d.GetId(), d.GetContainerPath(), container.ErrSpec)
		}
		source := d.GetId()
		if source == "" {
			source = d.GetVmPath()
		}
		disk, err := s.Mounts.FindDisk(ctx, d.GetType(), source)
		if err != nil {
			return fmt.Errorf("device %q at %q: %w", d.GetId(), d.GetContainerPath(), err)
		}
		access, err := accessOf(d.GetOptions())
		if err != nil {
			return fmt.Errorf("device %q at %q: %w", d.GetId(), d.GetContainerPath(), err)
		}
		setDevice(spec.Linux, d.GetContainerPath(), disk, access)
	}
	return nil
}

// optionAccess, of a Device, is what of "rwm" the container may do with it. It
// is this project's own; a device without it may be used in every way.
const optionAccess = "katadirect.io/access="

func accessOf(options []string) (string, error) {
	const everything = "rwm"
	for _, option := range options {
		access, ok := strings.CutPrefix(option, optionAccess)
		switch {
		case !ok:
		case access == "" || strings.Trim(access, everything) != "":
			return "", fmt.Errorf("%w: %s", container.ErrSpec, option)
		default:
			return access, nil
		}
	}
	return everything, nil
}

// setDevice puts the guest's device into the specification, with the owner and
// mode that the host's had there.
func setDevice(linux *specs.Linux, path string, disk device.Disk, access string) {
	entry := specs.LinuxDevice{Path: path}
	at := -1
	for i := range linux.Devices {
		if linux.Devices[i].Path == path {
			entry, at = linux.Devices[i], i
		}
	}
	entry.Type, entry.Major, entry.Minor = "b", int64(disk.Major), int64(disk.Minor)
	if at >= 0 {
		linux.Devices[at] = entry
	} else {
		const mode = os.FileMode(0o660)
		fileMode := mode
		entry.FileMode = &fileMode
		linux.Devices = append(linux.Devices, entry)
	}
	if linux.Resources != nil && len(linux.Resources.Devices) > 0 {
		linux.Resources.Devices = append(linux.Resources.Devices, specs.LinuxDeviceCgroup{
			Allow: true, Type: "b", Major: &entry.Major, Minor: &entry.Minor, Access: access,
		})
	}
}
