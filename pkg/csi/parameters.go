package csi

import (
	"maps"
	"slices"
	"strings"

	"github.com/katadirect/katadirect/pkg/csi/pool"
)

// StorageClass parameters. docs/storageclass.md is the reference.
const (
	parameterMode = "katadirect.io/mode"
	// parameterFSType is Kubernetes' own key. external-provisioner turns it into the capability's fs_type and takes it
	// away; a caller without external-provisioner may leave it.
	parameterFSType = "csi.storage.k8s.io/fstype"

	modeDirect    = "direct"
	defaultFSType = "ext4"
)

// informative are keys that external-provisioner adds with --extra-create-metadata. They name Kubernetes objects and
// decide nothing here.
var informative = []string{
	"csi.storage.k8s.io/pv/name", "csi.storage.k8s.io/pvc/name", "csi.storage.k8s.io/pvc/namespace",
}

var supportedFileSystems = pool.FileSystems()

// parameters are a StorageClass's parameters, checked.
type parameters struct {
	mode   string
	fsType string // "" if not given
}

// parseParameters reads a StorageClass's parameters. An unknown key is an error that names it: a misspelt key must
// not silently mean its default.
func parseParameters(given map[string]string) (parameters, error) {
	p := parameters{mode: modeDirect}
	for _, key := range slices.Sorted(maps.Keys(given)) {
		value := given[key]
		switch {
		case key == parameterMode:
			if value != modeDirect {
				return parameters{}, failf(ErrInvalidArgument, "parameter %s: mode %q is not supported; only %q is",
					parameterMode, value, modeDirect)
			}
		case key == parameterFSType:
			if err := checkFSType(value); err != nil {
				return parameters{}, failf(ErrInvalidArgument, "parameter %s: %w", key, err)
			}
			p.fsType = value
		case !slices.Contains(informative, key):
			return parameters{}, failf(ErrInvalidArgument, "unknown parameter %q; known are %s", key,
				strings.Join([]string{parameterMode, parameterFSType}, ", "))
		}
	}
	return p, nil
}

// stored is what the pool keeps of the parameters, so that a repeated CreateVolume can be compared. It is also what
// kubelet hands to the node service as the volume's context; there it informs: the node asks the pool.
func (p parameters) stored() map[string]string { return map[string]string{parameterMode: p.mode} }
