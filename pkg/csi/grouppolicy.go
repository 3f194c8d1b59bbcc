package csi

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/container-storage-interface/spec/lib/go/csi"

	"github.com/katadirect/katadirect/internal/fsgroup"
	"github.com/katadirect/katadirect/pkg/csi/kube"
	"github.com/katadirect/katadirect/pkg/directvolume"
)

// addGroupPolicy notes the pod's policy in a record with a group. Kubernetes hands a pod's fsGroup over, but not its
// fsGroupChangePolicy: that is looked up. Always, where it cannot be, is never wrong, only slower; so nothing fails for want
// of it. A publication that is there already keeps what it says: nobody is asked, and a machine may have read it.
func (n *node) addGroupPolicy(ctx context.Context, record *directvolume.Record, r *csi.NodePublishVolumeRequest) {
	if record.Metadata[directvolume.MetadataFSGroup] == "" {
		return
	}
	var policy string
	present, err := n.records.at(ctx, r.GetTargetPath(), record.Metadata[directvolume.MetadataVolumeID])
	if errors.Is(err, ErrNotPublished) {
		policy = n.groupPolicy(ctx, r)
	} else {
		policy = present.Metadata[directvolume.MetadataFSGroupChangePolicy]
	}
	if policy != "" {
		record.Metadata[directvolume.MetadataFSGroupChangePolicy] = policy
	}
}

// groupPolicy is what the pod of a publication says, "" if it says nothing or cannot be looked up.
func (n *node) groupPolicy(ctx context.Context, r *csi.NodePublishVolumeRequest) string {
	name, named := podOf(r.GetVolumeContext())
	if n.modes.cluster == nil || !named {
		return ""
	}
	pod, err := n.modes.cluster.Pod(ctx, name)
	if err != nil {
		n.log.WarnContext(ctx, "a pod's fsGroupChangePolicy could not be looked up; all files of the volume are looked at",
			"volume", r.GetVolumeId(), "pod", name.String(), "error", err)
		return ""
	}
	switch pod.FSGroupChangePolicy {
	case directvolume.FSGroupAlways, directvolume.FSGroupOnRootMismatch:
		return pod.FSGroupChangePolicy
	}
	return ""
}

// podOf is the pod that kubelet names in a volume context.
func podOf(volumeContext map[string]string) (name kube.PodName, named bool) {
	name = kube.PodName{
		Namespace: volumeContext[contextPodNamespace], Name: volumeContext[contextPodName], UID: volumeContext[contextPodUID],
	}
	return name, name.Namespace != "" && name.Name != "" && name.UID != ""
}

// handOver gives the files of a volume that the host has mounted at a path to the pod's group.
func (n *node) handOver(ctx context.Context, r *csi.NodePublishVolumeRequest, path string, gid uint32) error {
	root, err := os.Open(path)
	if err != nil {
		return err
	}
	defer root.Close()
	if n.groupPolicy(ctx, r) == directvolume.FSGroupOnRootMismatch {
		if done, err := fsgroup.Matches(root, gid); done || err != nil {
			return err
		}
	}
	if err := fsgroup.Apply(ctx, root, gid); err != nil {
		return fmt.Errorf("volume %s: give the files to group %d: %w", r.GetVolumeId(), gid, err)
	}
	return nil
}
