package kubelet

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// DriverName is what StorageClass objects call the CSI driver; it is a part of kubelet's staging paths.
const DriverName = "csi.katadirect.io"

// callTimeout bounds one call of the driver, with its repetitions.
const callTimeout = time.Minute

// Volume is a claim for a volume, and the volume once it is made.
type Volume struct {
	// Name is the persistent volume's; the driver derives the id from it.
	Name string
	// ID is the driver's, empty before Create.
	ID string
	// SizeBytes is what was asked for.
	SizeBytes int64
	// FSType is "ext4" or "xfs".
	FSType string

	// Source is the id of the volume or snapshot that it is to hold the content of; "" makes an empty one.
	Source string

	node    *Node
	context map[string]string
}

// Volume names a volume of the size, for one pod at a time (ReadWriteOncePod). Nothing is made yet.
func (n *Node) Volume(name string, sizeBytes int64, fsType string) *Volume {
	return &Volume{Name: name, SizeBytes: sizeBytes, FSType: fsType, node: n}
}

func (v *Volume) capability() *csi.VolumeCapability {
	return &csi.VolumeCapability{
		AccessType: &csi.VolumeCapability_Mount{Mount: &csi.VolumeCapability_MountVolume{FsType: v.FSType}},
		AccessMode: &csi.VolumeCapability_AccessMode{Mode: csi.VolumeCapability_AccessMode_SINGLE_NODE_SINGLE_WRITER},
	}
}

// Create makes the volume, as external-provisioner does. Repeating it gives the same volume.
func (v *Volume) Create(ctx context.Context) error {
	return call(ctx, "CreateVolume", func(ctx context.Context) error {
		r, err := v.node.controller.CreateVolume(ctx, &csi.CreateVolumeRequest{
			Name:                v.Name,
			CapacityRange:       &csi.CapacityRange{RequiredBytes: v.SizeBytes},
			VolumeCapabilities:  []*csi.VolumeCapability{v.capability()},
			VolumeContentSource: contentSource(v.Source),
		})
		v.ID, v.context = r.GetVolume().GetVolumeId(), r.GetVolume().GetVolumeContext()
		return err
	})
}

// Delete deletes the volume with its data.
func (v *Volume) Delete(ctx context.Context) error {
	return call(ctx, "DeleteVolume", func(ctx context.Context) error {
		_, err := v.node.controller.DeleteVolume(ctx, &csi.DeleteVolumeRequest{VolumeId: v.ID})
		return err
	})
}

// StagingPath is where kubelet, since 1.24, expects the volume to be mounted for all pods of the node.
func (v *Volume) StagingPath() string {
	return filepath.Join(v.node.root(), "plugins/kubernetes.io/csi", DriverName,
		fmt.Sprintf("%x", sha256.Sum256([]byte(v.ID))), "globalmount")
}

// TargetPath is where a pod's volume would be mounted on the host.
func (v *Volume) TargetPath(podUID string) string {
	return filepath.Join(v.node.root(), "pods", podUID, "volumes/kubernetes.io~csi", v.Name, "mount")
}

// Stage prepares the volume for pods of this node.
func (v *Volume) Stage(ctx context.Context) error {
	if err := os.MkdirAll(v.StagingPath(), 0o750); err != nil {
		return err
	}
	return call(ctx, "NodeStageVolume", func(ctx context.Context) error {
		_, err := v.node.node.NodeStageVolume(ctx, &csi.NodeStageVolumeRequest{
			VolumeId: v.ID, StagingTargetPath: v.StagingPath(), VolumeCapability: v.capability(), VolumeContext: v.context,
		})
		return err
	})
}

// Publish makes the volume ready for the pod.
func (v *Volume) Publish(ctx context.Context, podUID string) error {
	target := v.TargetPath(podUID)
	if err := os.MkdirAll(filepath.Dir(target), 0o750); err != nil {
		return err
	}
	return call(ctx, "NodePublishVolume", func(ctx context.Context) error {
		_, err := v.node.node.NodePublishVolume(ctx, &csi.NodePublishVolumeRequest{
			VolumeId: v.ID, StagingTargetPath: v.StagingPath(), TargetPath: target,
			VolumeCapability: v.capability(), VolumeContext: v.context,
		})
		return err
	})
}

// Usage is what the driver says of a published volume, in bytes.
type Usage struct {
	Total, Used, Available int64
}

// Stats asks how full the volume is.
func (v *Volume) Stats(ctx context.Context, podUID string) (Usage, error) {
	var u Usage
	err := call(ctx, "NodeGetVolumeStats", func(ctx context.Context) error {
		r, err := v.node.node.NodeGetVolumeStats(ctx, &csi.NodeGetVolumeStatsRequest{
			VolumeId: v.ID, VolumePath: v.TargetPath(podUID), StagingTargetPath: v.StagingPath(),
		})
		for _, usage := range r.GetUsage() {
			if usage.GetUnit() == csi.VolumeUsage_BYTES {
				u.Total, u.Used, u.Available = usage.GetTotal(), usage.GetUsed(), usage.GetAvailable()
			}
		}
		return err
	})
	return u, err
}

// Expand makes the published volume larger.
func (v *Volume) Expand(ctx context.Context, podUID string, sizeBytes int64) error {
	err := call(ctx, "NodeExpandVolume", func(ctx context.Context) error {
		_, err := v.node.node.NodeExpandVolume(ctx, &csi.NodeExpandVolumeRequest{
			VolumeId: v.ID, VolumePath: v.TargetPath(podUID), StagingTargetPath: v.StagingPath(),
			CapacityRange: &csi.CapacityRange{RequiredBytes: sizeBytes}, VolumeCapability: v.capability(),
		})
		return err
	})
	if err == nil {
		v.SizeBytes = sizeBytes
	}
	return err
}

// Unpublish takes the volume from the pod and removes the pod's folders, as kubelet does. It is repeated while a sandbox
// has the volume still: containerd says that a pod is gone before it has called a dead shim's delete command.
func (v *Volume) Unpublish(ctx context.Context, podUID string) error {
	target := v.TargetPath(podUID)
	if err := v.cleanSubPaths(ctx, podUID); err != nil {
		return err
	}
	err := call(ctx, "NodeUnpublishVolume", func(ctx context.Context) error {
		_, err := v.node.node.NodeUnpublishVolume(ctx, &csi.NodeUnpublishVolumeRequest{VolumeId: v.ID, TargetPath: target})
		return err
	}, codes.FailedPrecondition)
	if err != nil {
		return err
	}
	return removeEmpty(target, filepath.Join(v.node.root(), "pods"))
}

// Unstage takes the volume from the node.
func (v *Volume) Unstage(ctx context.Context) error {
	err := call(ctx, "NodeUnstageVolume", func(ctx context.Context) error {
		_, err := v.node.node.NodeUnstageVolume(ctx, &csi.NodeUnstageVolumeRequest{
			VolumeId: v.ID, StagingTargetPath: v.StagingPath(),
		})
		return err
	})
	if err != nil {
		return err
	}
	return removeEmpty(v.StagingPath(), filepath.Join(v.node.root(), "plugins"))
}

// removeEmpty removes dir, which must be empty, and its empty parents below top.
func removeEmpty(dir, top string) error {
	if err := os.Remove(dir); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	for parent := filepath.Dir(dir); parent != top; parent = filepath.Dir(parent) {
		if os.Remove(parent) != nil {
			return nil // the pod has other volumes
		}
	}
	return nil
}

// call repeats a call that the driver refuses because another is under way for the volume, or because the driver is
// just being restarted, or with one of the codes, as kubelet does, until it is answered otherwise or time is up.
func call(ctx context.Context, name string, do func(context.Context) error, repeated ...codes.Code) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	pause := 20 * time.Millisecond
	for {
		err := do(ctx)
		if err == nil {
			return nil
		}
		code := status.Code(err)
		if code != codes.Aborted && code != codes.Unavailable && !slices.Contains(repeated, code) {
			return fmt.Errorf("%s: %w", name, err)
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%s: %w (%w)", name, err, ctx.Err())
		case <-time.After(pause):
			pause = min(2*pause, time.Second)
		}
	}
}
