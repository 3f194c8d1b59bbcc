package task

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// maxSpec bounds a bundle's config.json. The largest seen in the wild, with seccomp and hundreds of mounts, are
// some hundred KiB.
const maxSpec = 8 << 20

// ReadSpec reads the OCI spec of a bundle.
func ReadSpec(bundle string) (*specs.Spec, error) {
	f, err := os.Open(filepath.Join(bundle, "config.json"))
	if err != nil {
		return nil, fmt.Errorf("read the container's OCI spec: %w", err)
	}
	defer f.Close()

	var spec specs.Spec
	if err := json.NewDecoder(io.LimitReader(f, maxSpec)).Decode(&spec); err != nil {
		return nil, fmt.Errorf("%w: OCI spec %s: %w", ErrInvalid, f.Name(), err)
	}
	if spec.Process == nil || spec.Root == nil {
		return nil, fmt.Errorf("%w: OCI spec %s has no process or no root", ErrInvalid, f.Name())
	}
	return &spec, nil
}

// SandboxOf tells which sandbox the container with that bundle belongs to. Unlike ReadSpec it decodes the annotations
// alone, because the start command, which asks, is in a hurry.
func SandboxOf(bundle, id string) (string, error) {
	f, err := os.Open(filepath.Join(bundle, "config.json"))
	if err != nil {
		return "", fmt.Errorf("read the container's OCI spec: %w", err)
	}
	defer f.Close()

	var spec struct {
		Annotations map[string]string `json:"annotations"`
	}
	if err := json.NewDecoder(io.LimitReader(f, maxSpec)).Decode(&spec); err != nil {
		return "", fmt.Errorf("%w: OCI spec %s: %w", ErrInvalid, f.Name(), err)
	}
	_, sandbox, err := Classify(id, spec.Annotations)
	return sandbox, err
}
