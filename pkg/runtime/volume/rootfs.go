package volume

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/katadirect/katadirect/pkg/agentproto"
)

// Rootfs is a container's root file system on a block device, or in an image file.
type Rootfs struct {
	Device, FSType string
	// Options are those of a mount on the host; what only concerns the host is left out here.
	Options []string
	// GuestPath is where the guest is to mount it.
	GuestPath string
}

// AttachRootfs plugs in the container's root file system and returns what the agent has to mount. Detach takes it out
// again at once: whoever made it may remove it when the container is gone.
func (s *Set) AttachRootfs(ctx context.Context, container string, r Rootfs) (*agentproto.Storage, error) {
	w := wish{device: r.Device, fsType: r.FSType}
	for _, option := range split(r.Options) {
		switch {
		case option == "loop", option == "direct-io", strings.HasPrefix(option, "X-"), strings.HasPrefix(option, "x-"):
		case option == "ro":
			w.readOnly = true
		case option == "rw":
			w.readOnly = false
		default:
			w.options = append(w.options, option)
		}
	}
	d, w, err := s.attachDevice(ctx, container, w, rootfs)
	if err != nil {
		return nil, fmt.Errorf("root file system on %s: %w", r.Device, err)
	}
	if w.readOnly {
		w.options = append(w.options, "ro")
	}
	if w.fsType == "xfs" && !slices.Contains(w.options, "nouuid") {
		w.options = append(w.options, "nouuid") // snapshots of one image have the same
	}
	storage := w.storage(d.address)
	storage.MountPoint = r.GuestPath
	return storage, nil
}
