package csi

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"

	"github.com/container-storage-interface/spec/lib/go/csi"

	"github.com/katadirect/katadirect/internal/rollback"
	"github.com/katadirect/katadirect/pkg/csi/hostmount"
	"github.com/katadirect/katadirect/pkg/csi/mode"
	"github.com/katadirect/katadirect/pkg/csi/pool"
	"github.com/katadirect/katadirect/pkg/csi/stage"
)

// A volume that the host mounts has one mount at its staging path, made when the first pod of the node gets it, and a
// bind mount at each pod's target path. NodeStageVolume cannot make it: it does not know the pods, and in mode auto
// each of them decides anew. So it goes when the last pod has let go of it, and the next one may be a machine.
//
//	publish     staged state says on-host → blank? marked, formatted → loop device → mount at the staging path → bind
//	unpublish   bind away → the last one? mount and loop device away → staged state says so
//
// Staged state says on-host before there is anything to leave behind, and stops saying so after. What is mounted where
// is the kernel's word alone.

// way says how a pod gets the volume. One that has it already keeps it as it is: its runtime is what it was, and
// Kubernetes need not be asked.
func (n *node) way(ctx context.Context, v pool.Volume, r *csi.NodePublishVolumeRequest) (mode.Mode, error) {
	if _, err := n.records.at(ctx, r.GetTargetPath(), v.ID); err == nil {
		return mode.Direct, nil
	}
	if n.isOnHostAt(ctx, v.ID, r.GetTargetPath()) {
		return mode.Host, nil
	}
	return n.modes.of(ctx, v, r.GetVolumeContext())
}

// isOnHostAt reports whether the host has mounted the volume at a path. What cannot be found out is no.
func (n *node) isOnHostAt(ctx context.Context, id, path string) bool {
	present, err := n.staged.Get(ctx, id)
	if err != nil || !present.OnHost {
		return false
	}
	real, err := realPath(path)
	if err != nil {
		return false
	}
	points, err := n.hosts.At(ctx, n.pool.ImagePath(id))
	return err == nil && slices.ContainsFunc(points, func(p hostmount.Point) bool { return p.Is(real) })
}

// publishOnHost mounts the volume at the target path, or finds that it is. On error it takes back what it made.
func (n *node) publishOnHost(ctx context.Context, v pool.Volume, a access, r *csi.NodePublishVolumeRequest, readOnly bool) (err error) {
	targetPath := r.GetTargetPath()
	staged, err := n.staged.Get(ctx, v.ID)
	if err != nil {
		return err
	}
	target, err := realPath(targetPath)
	if errors.Is(err, fs.ErrNotExist) {
		return failf(ErrState, "the folder that the target path %s is to be in does not exist", targetPath)
	}
	if err != nil {
		return fmt.Errorf("look at the target path: %w", err)
	}
	staging, err := makeStaging(staged.StagingPath)
	if err != nil {
		return err
	}
	bound, err := n.checkFreeOnHost(ctx, v, a, staging, target, readOnly)
	if err != nil || bound {
		return err
	}
	var undo rollback.Stack
	defer undo.OnError(ctx, &err)
	undo.Push("unmount the volume", func(ctx context.Context) error { return n.releaseUnlessUsed(ctx, v.ID) })
	if err := n.mountOnHost(ctx, v, staged, staging); err != nil {
		return err
	}
	if a.fsGroup != 0 && !readOnly {
		if err := n.handOver(ctx, r, staging, a.fsGroup); err != nil {
			return err
		}
	}
	made, err := makeTarget(targetPath)
	if err != nil {
		return err
	}
	if made {
		undo.Push("remove the target path", func(context.Context) error { return removeTarget(targetPath) })
	}
	return n.hosts.Bind(staging, target, readOnly)
}

// checkFreeOnHost refuses if a machine has the volume, or another pod has it for itself. It reports whether the volume
// is where it should be already.
func (n *node) checkFreeOnHost(ctx context.Context, v pool.Volume, a access, staging, target string, readOnly bool) (bound bool, err error) {
	publications, err := n.records.of(ctx, v)
	if err != nil {
		return false, err
	}
	if len(publications) > 0 {
		return false, failf(ErrInUse, "volume %s is published at %s for a pod in a virtual machine, and the host cannot mount it "+
			"meanwhile; end that pod first", v.ID, publications[0].path)
	}
	if err := n.pool.CheckUnlocked(v.ID); err != nil {
		return false, fmt.Errorf("volume %s cannot be mounted on the host: %w", v.ID, err)
	}
	points, err := n.hosts.At(ctx, v.ImagePath)
	if err != nil {
		return false, err
	}
	for _, p := range points {
		switch {
		case p.Is(target) && p.ReadOnly != readOnly:
			return false, failf(ErrDiffers, "volume %s is mounted at %s read-only=%t, not read-only=%t", v.ID, target, p.ReadOnly, readOnly)
		case p.Is(target):
			return true, nil
		case !p.Is(staging) && a.mode == csi.VolumeCapability_AccessMode_SINGLE_NODE_SINGLE_WRITER:
			return false, failf(ErrInUse, "volume %s is for one pod at a time (ReadWriteOncePod), and is mounted at %s; "+
				"it has to be unpublished there first", v.ID, p.Path)
		}
	}
	return false, n.checkPathFree(ctx, v.ID, target)
}

// makeStaging makes the folder at the staging path, if kubelet has not done so, and returns its path without links.
func makeStaging(path string) (string, error) {
	err := os.MkdirAll(path, targetMode)
	if err == nil {
		path, err = realPath(path)
	}
	if err != nil {
		return "", fmt.Errorf("make the staging path: %w", err)
	}
	return path, nil
}

// mountOnHost mounts the volume at its staging path.
func (n *node) mountOnHost(ctx context.Context, v pool.Volume, staged stage.Volume, staging string) error {
	mayFormat, err := n.admit(ctx, v)
	if err != nil {
		return err
	}
	if !staged.OnHost {
		staged.OnHost = true
		if err := n.staged.Put(ctx, staged); err != nil {
			return err
		}
	}
	err = n.hosts.Mount(ctx, hostmount.Volume{
		Image: v.ImagePath, FSType: v.FSType, ReadOnly: staged.ReadOnly, Options: staged.Options,
		SELinuxLabel: staged.SELinuxLabel, Format: mayFormat, MkfsOptions: v.Parameters[parameterMkfsOptions],
	}, staging)
	if err != nil {
		return fmt.Errorf("mount volume %s on the host: %w", v.ID, orFull(err, v.ImagePath))
	}
	return nil
}

// growOnHost has the host's mount, if there is one, follow the image's new size, or says why it does not.
func (n *node) growOnHost(ctx context.Context, v pool.Volume) error {
	present, err := n.staged.Get(ctx, v.ID)
	if err != nil || !present.OnHost {
		return ignoring(err, stage.ErrNotStaged)
	}
	staging, err := realPath(present.StagingPath)
	if err != nil {
		return ignoring(err, fs.ErrNotExist)
	}
	if !n.isOnHostAt(ctx, v.ID, staging) {
		return nil // it follows when it is mounted
	}
	if present.ReadOnly {
		return failf(ErrCannotResize, "volume %s is mounted read-only on the host, where nothing can make it grow. It has %d bytes "+
			"now, and a pod that has it for writing will find them", v.ID, v.SizeBytes)
	}
	if err := n.hosts.Grow(ctx, v.ImagePath, staging, v.FSType); err != nil {
		return fmt.Errorf("volume %s has %d bytes now, but its file system has not grown yet: %w", v.ID, v.SizeBytes, err)
	}
	return nil
}

func ignoring(err, kind error) error {
	if errors.Is(err, kind) {
		return nil
	}
	return err
}
