package csi

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// sweepInline deletes inline volumes whose pods went without kubelet's last call, as when a node's kubelet was reset, and
// takes away what the host still has of them. Whatever is not certain stays: the next start looks again.
func (n *node) sweepInline(ctx context.Context) {
	for _, v := range n.pool.List(ctx) {
		target := v.Parameters[parameterInline]
		if target == "" || !podIsGone(target) {
			continue
		}
		err := n.records.store.Remove(ctx, target) // not if a living sandbox has it
		if err == nil {
			err = n.unpublishOnHost(ctx, v.ID, target) // not if it is mounted elsewhere too
		}
		if err == nil {
			err = inlineVolumes{n.pool, n.records, n.staged, n.log}.delete(ctx, v.ID, target)
		}
		if err != nil {
			n.log.WarnContext(ctx, "an inline volume whose pod is gone cannot be deleted", "volume", v.ID, "path", target, "error", err)
			continue
		}
		n.log.InfoContext(ctx, "deleted an inline volume whose pod is gone", "volume", v.ID, "path", target)
	}
}

// podIsGone reports whether kubelet has certainly done with a target path in its own layout,
// …/pods/UID/volumes/kubernetes.io~csi/NAME/mount: the folder NAME, in which it keeps its notes until
// NodeUnpublishVolume has succeeded, is not there, while folders of other pods are. A kubelet folder that is empty, or
// not there, may merely not be mounted yet.
func podIsGone(target string) bool {
	own := filepath.Dir(target)
	names := strings.Split(own, "/")
	if len(names) < 5 || names[len(names)-5] != "pods" || !slices.Equal(names[len(names)-3:len(names)-1], []string{"volumes", "kubernetes.io~csi"}) {
		return false
	}
	if _, err := os.Lstat(own); !errors.Is(err, fs.ErrNotExist) {
		return false
	}
	pods, err := os.Open(filepath.Join(own, "../../../.."))
	if err != nil {
		return false
	}
	defer pods.Close()
	others, err := pods.Readdirnames(1)
	return err == nil && len(others) > 0
}
