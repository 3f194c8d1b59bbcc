package csi

import (
	"fmt"
	"slices"
	"strconv"

	"github.com/container-storage-interface/spec/lib/go/csi"

	"github.com/katadirect/katadirect/pkg/csi/pool"
)

// access is what a request wants to do with a volume, after everything about it has been checked.
type access struct {
	// block says that the volume is to be a device, and that fsType, options and fsGroup mean nothing.
	block bool
	// fsType is the file system asked for, "" if the caller leaves it to the volume.
	fsType string
	// options are mount options from the allow-list, in the caller's order, each once.
	options []string
	// mode is the CSI access mode.
	mode csi.VolumeCapability_AccessMode_Mode
	// fsGroup is the group that is to own the volume's files, 0 for none.
	fsGroup uint32
	// selinuxLabel is the label that all files are to have, "" for their own.
	selinuxLabel string
}

// readOnly reports whether the access mode, or a mount option, says so.
func (a access) readOnly() bool {
	return a.mode == csi.VolumeCapability_AccessMode_SINGLE_NODE_READER_ONLY || slices.Contains(a.options, "ro")
}

// parseAccess checks one volume capability. Everything that this driver does not do is refused by its name.
func parseAccess(c *csi.VolumeCapability) (access, error) {
	if c == nil {
		return access{}, failf(ErrInvalidArgument, "the volume capability is missing")
	}
	if c.GetBlock() != nil {
		a := access{block: true, mode: c.GetAccessMode().GetMode()}
		return a, checkMode(a.mode)
	}
	if c.GetMount() == nil {
		return access{}, failf(ErrInvalidArgument, "the volume capability has no access type")
	}
	a := access{fsType: c.GetMount().GetFsType(), mode: c.GetAccessMode().GetMode()}
	if err := checkMode(a.mode); err != nil {
		return access{}, err
	}
	if a.fsType != "" {
		if err := checkFSType(a.fsType); err != nil {
			return access{}, err
		}
	}
	label, flags, err := takeSELinuxLabel(c.GetMount().GetMountFlags())
	if err != nil {
		return access{}, err
	}
	a.selinuxLabel = label
	if a.options, err = parseMountOptions(a.fsType, flags); err != nil {
		return access{}, err
	}
	a.fsGroup, err = parseMountGroup(c.GetMount().GetVolumeMountGroup())
	return a, err
}

// parseAccesses checks the capabilities of a request that must have at least one.
func parseAccesses(all []*csi.VolumeCapability) ([]access, error) {
	if len(all) == 0 {
		return nil, failf(ErrInvalidArgument, "the volume capabilities are missing")
	}
	var accesses []access
	for _, c := range all {
		a, err := parseAccess(c)
		if err != nil {
			return nil, err
		}
		accesses = append(accesses, a)
	}
	return accesses, nil
}

// checkMode accepts the modes of one node. A machine's file system cannot be shared with another machine.
func checkMode(mode csi.VolumeCapability_AccessMode_Mode) error {
	switch mode {
	case csi.VolumeCapability_AccessMode_SINGLE_NODE_WRITER,
		csi.VolumeCapability_AccessMode_SINGLE_NODE_SINGLE_WRITER,
		csi.VolumeCapability_AccessMode_SINGLE_NODE_MULTI_WRITER,
		csi.VolumeCapability_AccessMode_SINGLE_NODE_READER_ONLY:
		return nil
	case csi.VolumeCapability_AccessMode_UNKNOWN:
		return failf(ErrInvalidArgument, "the volume capability has no access mode")
	}
	return failf(ErrInvalidArgument,
		"access mode %s is not supported: a volume is on one node; use ReadWriteOncePod or ReadWriteOnce", mode)
}

// parseMountGroup reads what VOLUME_MOUNT_GROUP hands over: the pod's fsGroup.
func parseMountGroup(group string) (uint32, error) {
	if group == "" {
		return 0, nil
	}
	n, err := strconv.ParseUint(group, 10, 32)
	if err != nil {
		return 0, failf(ErrInvalidArgument, "volume mount group %q is not the number of a group", group)
	}
	return uint32(n), nil
}

func checkFSType(fsType string) error {
	if !slices.Contains(supportedFileSystems, fsType) {
		return failf(ErrInvalidArgument, "file system %q is not supported; use one of %v", fsType, supportedFileSystems)
	}
	return nil
}

// singleFSType returns the file system that the capabilities and the StorageClass agree on, or the default.
func singleFSType(accesses []access, fromParameters string) (string, error) {
	if raw, err := allBlock(accesses); raw || err != nil {
		return pool.RawBlock, err // a class serves both kinds, so what it says of file systems is for the others
	}
	chosen, by := fromParameters, fmt.Sprintf("the parameter %s", parameterFSType)
	for _, a := range accesses {
		switch {
		case a.fsType == "":
		case chosen == "":
			chosen, by = a.fsType, "another volume capability"
		case chosen != a.fsType:
			return "", failf(ErrInvalidArgument, "the volume capability asks for %s, and %s for %s", a.fsType, by, chosen)
		}
	}
	if chosen == "" {
		chosen = defaultFSType
	}
	return chosen, nil
}
