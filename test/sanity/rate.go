// Package sanity runs csi-sanity, the conformance suite of the CSI community, against the real csi-node binary, and
// measures how fast that binary makes volumes.
package sanity

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
)

// volumeBytes is small, so that thousands fit into any pool.
const volumeBytes = 16 << 20

// CreateRate makes volumes through the driver at conn, from so many clients at once, and returns how many were made
// durably per second. It does not delete them: for half a minute after a deletion ext4 makes new files much more
// slowly, because it keeps off the inodes that were just freed, so whoever measures again should wait that long.
func CreateRate(ctx context.Context, conn *grpc.ClientConn, clients, volumes int) (perSecond float64, err error) {
	controller := csi.NewControllerClient(conn)
	prefix := rand.Text()
	seconds, err := inParallel(ctx, clients, volumes, func(ctx context.Context, i int) error {
		_, err := controller.CreateVolume(ctx, createRequest(fmt.Sprintf("rate-%s-%d", prefix, i)))
		return err
	})
	return float64(volumes) / seconds, err
}

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

// FloorRate does with plain system calls in dir what a durable CreateVolume cannot do without: a folder, a sparse
// file and a small file, each synced, and the parent. It is the floor that CreateRate is compared with.
func FloorRate(ctx context.Context, dir string, clients, volumes int) (perSecond float64, err error) {
	parent, err := os.Open(dir)
	if err != nil {
		return 0, err
	}
	defer parent.Close()
	prefix := filepath.Join(dir, "floor-"+rand.Text())
	seconds, err := inParallel(ctx, clients, volumes, func(_ context.Context, i int) error {
		folder := fmt.Sprintf("%s-%d", prefix, i)
		if err := os.Mkdir(folder, 0o700); err != nil {
			return err
		}
		return errors.Join(
			syncedFile(filepath.Join(folder, "disk.img"), func(f *os.File) error { return f.Truncate(volumeBytes) }),
			syncedFile(filepath.Join(folder, "volume.json"), func(f *os.File) error {
				_, err := f.WriteString(`{"name":"floor"}`)
				return err
			}),
			syncedFolder(folder), parent.Sync())
	})
	return float64(volumes) / seconds, err
}

func syncedFile(path string, fill func(*os.File) error) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	return errors.Join(fill(f), f.Sync(), f.Close())
}

func syncedFolder(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// inParallel calls do for 0 to n-1 from so many goroutines at once, and returns how long it took.
func inParallel(ctx context.Context, clients, n int, do func(context.Context, int) error) (seconds float64, err error) {
	group, ctx := errgroup.WithContext(ctx)
	start := time.Now()
	for client := range clients {
		group.Go(func() error {
			for i := client; i < n; i += clients {
				if err := do(ctx, i); err != nil {
					return err
				}
			}
			return nil
		})
	}
	err = group.Wait()
	return time.Since(start).Seconds(), err
}
