package images

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/katadirect/katadirect/internal/image"
)

// sidecars are the CSI community's images that deploy/ names, and the programs of Kubernetes' cache in them.
var sidecars = map[string]string{
	"registry.k8s.io/sig-storage/csi-provisioner:v5.3.0":     "csi-provisioner",
	"registry.k8s.io/sig-storage/csi-resizer:v1.14.0":        "csi-resizer",
	"registry.k8s.io/sig-storage/csi-snapshotter:v8.3.0":     "csi-snapshotter",
	"registry.k8s.io/sig-storage/snapshot-controller:v8.3.0": "snapshot-controller",
}

// Sidecars are those images, each of one program from the folder programs, as the community's are.
func Sidecars(programs string) (map[string]v1.Image, error) {
	all := map[string]v1.Image{}
	for name, program := range sidecars {
		content, err := os.ReadFile(filepath.Join(programs, program))
		if err != nil {
			return nil, fmt.Errorf("make the sidecars' images: %w", err)
		}
		all[name], err = build(image.Files{program: image.Program(content)}, v1.Config{Entrypoint: []string{"/" + program}})
		if err != nil {
			return nil, err
		}
	}
	return all, nil
}

// SidecarNames are the names of the images that Sidecars makes.
func SidecarNames() []string { return slices.Sorted(maps.Keys(sidecars)) }
