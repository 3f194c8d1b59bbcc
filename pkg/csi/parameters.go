package csi

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/katadirect/katadirect/internal/mkfs"
	"github.com/katadirect/katadirect/pkg/csi/mode"
	"github.com/katadirect/katadirect/pkg/csi/pool"
)

// StorageClass parameters. docs/storageclass.md is the reference.
const (
	parameterMode = mode.Key
	// parameterFSType is Kubernetes' own key. external-provisioner turns it into the capability's fs_type and takes it
	// away; a caller without external-provisioner may leave it.
	parameterFSType = "csi.storage.k8s.io/fstype"
	// parameterOvercommit is how many bytes may be promised to volumes of the class for each that there is.
	parameterOvercommit = "katadirect.io/overcommit"
	// parameterMkfsOptions are options of the mkfs program, as on its command line.
	parameterMkfsOptions = "katadirect.io/mkfsOptions"

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
	mode       mode.Mode
	fsType     string  // "" if not given
	overcommit float64 // 0 if not given
	// mkfsOptions can be checked only when the file system is known.
	mkfsOptions  string
	formatOnHost bool

	// kept are those that the pool keeps with the volume, as they were given.
	kept map[string]string
}

// knownParameters are all there are: how each is read, and whether the pool keeps it. What is kept has to be the same
// when CreateVolume is repeated, and reaches the node service as the volume's context.
var knownParameters = []struct {
	key  string
	read func(p *parameters, value string) error
	kept bool
}{
	{parameterMode, readMode, true},
	{parameterFSType, readFSType, false}, // the pool has a field for it
	{parameterOvercommit, readOvercommit, true},
	{parameterMkfsOptions, readMkfsOptions, true},
	{parameterFormat, readFormat, true},
	{parameterAllowGuestData, readAllowGuestData, true},
}

// parseParameters reads a StorageClass's parameters. An unknown key is an error that names it: a misspelt key must
// not silently mean its default.
func parseParameters(given map[string]string) (parameters, error) {
	p := parameters{mode: mode.Direct, kept: map[string]string{parameterMode: string(mode.Direct)}}
	for _, key := range slices.Sorted(maps.Keys(given)) {
		if slices.Contains(informative, key) {
			continue
		}
		if err := p.read(key, given[key]); err != nil {
			return parameters{}, err
		}
	}
	return p, nil
}

func (p *parameters) read(key, value string) error {
	var keys []string
	for _, known := range knownParameters {
		keys = append(keys, known.key)
		if known.key != key {
			continue
		}
		if err := known.read(p, value); err != nil {
			return failf(ErrInvalidArgument, "parameter %s: %w", key, err)
		}
		if known.kept {
			p.kept[key] = value
		}
		return nil
	}
	return failf(ErrInvalidArgument, "unknown parameter %q; known are %s", key, strings.Join(keys, ", "))
}

func readFSType(p *parameters, value string) (err error) {
	p.fsType = value
	return checkFSType(value)
}

func readOvercommit(p *parameters, value string) (err error) {
	p.overcommit, err = strconv.ParseFloat(value, 64)
	// The pool knows how much the operator allows, and refuses more.
	if err != nil || !(p.overcommit >= 1) {
		return fmt.Errorf("%q is not a number from 1", value)
	}
	return nil
}

func readMkfsOptions(p *parameters, value string) error {
	p.mkfsOptions = value
	return nil
}

// checkFor returns an error if a volume with that file system cannot be made as the class says.
func (p parameters) checkFor(fsType string) error {
	if fsType == pool.RawBlock {
		return nil // what a class says about file systems means nothing for its raw block volumes
	}
	if err := mkfs.Check(fsType, p.mkfsOptions); err != nil {
		return failf(ErrInvalidArgument, "parameter %s: %w", parameterMkfsOptions, err)
	}
	return nil
}

// stored is what the pool keeps of the parameters, so that a repeated CreateVolume can be compared. It is also what
// kubelet hands to the node service as the volume's context; there it informs: the node asks the pool.
func (p parameters) stored() map[string]string { return p.kept }
