package csi

import (
	"context"
	"errors"
	"fmt"

	"github.com/container-storage-interface/spec/lib/go/csi"

	"github.com/katadirect/katadirect/internal/rollback"
	"github.com/katadirect/katadirect/pkg/csi/pool"
	"github.com/katadirect/katadirect/pkg/csi/stage"
)

func isInline(v pool.Volume) bool { return v.Parameters[parameterInline] != "" }

// publishInlineOnHost mounts an inline volume for an ordinary pod. kubelet stages no such volume and no second pod can
// have it, so its target path is its staging path too.
func (n *node) publishInlineOnHost(ctx context.Context, v pool.Volume, a access, r *csi.NodePublishVolumeRequest) (err error) {
	targetPath := r.GetTargetPath()
	if n.isOnHostAt(ctx, v.ID, targetPath) {
		return nil
	}
	staged, err := n.staged.Get(ctx, v.ID)
	if errors.Is(err, stage.ErrNotStaged) {
		staged, err = stage.Volume{
			ID: v.ID, StagingPath: targetPath, FSType: v.FSType, Options: a.options, SELinuxLabel: a.selinuxLabel, OnHost: true,
		}, nil
	}
	if err != nil {
		return err
	}
	var undo rollback.Stack
	defer undo.OnError(ctx, &err)
	made, err := makeTarget(targetPath)
	if err != nil {
		return err
	}
	if made {
		undo.Push("remove the target path", func(context.Context) error { return removeTarget(targetPath) })
	}
	target, err := realPath(targetPath)
	if err != nil {
		return fmt.Errorf("look at the target path: %w", err)
	}
	undo.Push("unmount the volume", func(ctx context.Context) error { return n.unpublishOnHost(ctx, v.ID, targetPath) })
	if err := n.staged.Put(ctx, staged); err != nil {
		return err
	}
	if err := n.mountOnHost(ctx, v, staged, target); err != nil || a.fsGroup == 0 {
		return err
	}
	return n.handOver(ctx, r, target, a.fsGroup)
}
