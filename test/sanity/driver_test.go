// Package sanity runs csi-sanity, the conformance suite of the CSI community, against the real csi-node binary, and
// kills that binary in the middle of its work.
package sanity

import (
	"os"
	"testing"

	"github.com/container-storage-interface/spec/lib/go/csi"

	"github.com/katadirect/katadirect/test/csinode"
)

// volumeBytes is the size of the volumes that crash tests make: small, so that many fit into any pool.
const volumeBytes = 16 << 20

func TestMain(m *testing.M) {
	if config := os.Getenv(suiteEnv); config != "" {
		os.Exit(runSuite(config))
	}
	os.Exit(csinode.Main(m))
}

// driver is a csi-node process, and what the tests of this package do with it.
type driver struct{ *csinode.Driver }

func startDriver(t *testing.T, flags ...string) driver {
	t.Helper()
	return driver{csinode.Start(t, t.TempDir(), flags...)}
}

// createRequest asks for a small ext4 volume for one pod.
func createRequest(name string) *csi.CreateVolumeRequest {
	return &csi.CreateVolumeRequest{
		Name:          name,
		CapacityRange: &csi.CapacityRange{RequiredBytes: volumeBytes},
		VolumeCapabilities: []*csi.VolumeCapability{{
			AccessType: &csi.VolumeCapability_Mount{Mount: &csi.VolumeCapability_MountVolume{FsType: "ext4"}},
			AccessMode: &csi.VolumeCapability_AccessMode{Mode: csi.VolumeCapability_AccessMode_SINGLE_NODE_SINGLE_WRITER},
		}},
	}
}
