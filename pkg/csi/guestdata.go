package csi

import (
	"context"
	"fmt"
	"strconv"

	"github.com/katadirect/katadirect/internal/filesystem"
	"github.com/katadirect/katadirect/pkg/csi/pool"
)

// parameterAllowGuestData lets the host mount a file system that a guest has written.
const parameterAllowGuestData = "katadirect.io/allowHostMountOfGuestData"

func readAllowGuestData(p *parameters, value string) error {
	switch value {
	case "true", "false":
		return nil
	}
	return fmt.Errorf("%q is neither true nor false", value)
}

// admit decides whether the host may mount the volume, and whether it may format it. The kernel's file systems are not
// made to withstand an image that somebody has forged, and a guest can write to its disk whatever it likes: so the host
// mounts what it has made itself and no machine has had since, and nothing else unless the StorageClass says so.
func (n *node) admit(ctx context.Context, v pool.Volume) (mayFormat bool, err error) {
	hostOnly, err := n.pool.HostOnly(v.ID)
	if err != nil || hostOnly {
		return true, err // marked, and perhaps not yet formatted
	}
	content, err := filesystem.Probe(v.ImagePath)
	if err != nil {
		return false, fmt.Errorf("volume %s: %w", v.ID, err)
	}
	if content.Blank() {
		return true, n.pool.MarkHostOnly(ctx, v.ID)
	}
	// An unfinished format that the host has begun has the volume's mark. Any other is a guest's word, which it can write
	// over whatever it likes: a volume that is marked for it would be trusted from then on.
	if allowed, _ := strconv.ParseBool(v.Parameters[parameterAllowGuestData]); allowed {
		return content.Unfinished, nil
	}
	return false, failf(ErrState, "volume %s holds what a virtual machine has written, and the host does not mount that: a "+
		"hostile guest could have prepared it against the host's kernel. Run the pod in a virtual machine, or use a "+
		"StorageClass with %s: \"true\"", v.ID, parameterAllowGuestData)
}
