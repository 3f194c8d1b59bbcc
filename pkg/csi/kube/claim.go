package kube

import (
	"context"
	"errors"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/katadirect/katadirect/pkg/csi/mode"
)

// volumesAtOnce bounds how many PersistentVolumes are in memory while one is looked for.
const volumesAtOnce = 250

// VolumeID is how a PersistentVolume names a volume of a CSI driver.
type VolumeID struct{ Driver, Handle string }

// ModeOfClaim returns what the annotation of the volume's claim says, "" if there is none. The claim is the one that
// the PersistentVolume is bound to now: a volume that was kept can have another one than it was made for. names are
// those the PersistentVolume may have; it is looked for among all if it has none of them.
func (c *Cluster) ModeOfClaim(ctx context.Context, id VolumeID, names ...string) (mode.Mode, error) {
	volume, err := c.volume(ctx, id, names)
	if err != nil {
		return "", fmt.Errorf("look up the PersistentVolume of volume %s: %w", id.Handle, err)
	}
	ref := volume.Spec.ClaimRef
	if ref == nil {
		return "", fmt.Errorf("%w: PersistentVolume %s is bound to no claim", ErrNotFound, volume.Name)
	}
	claim := &corev1.PersistentVolumeClaim{}
	err = ask(ctx, c.core.Get().Namespace(ref.Namespace).Resource("persistentvolumeclaims"), ref.Name, claim)
	if err == nil && ref.UID != "" && claim.UID != ref.UID {
		err = fmt.Errorf("%w: it has the uid %s, and PersistentVolume %s is bound to %s", ErrNotFound, claim.UID, volume.Name, ref.UID)
	}
	var says mode.Mode
	if err == nil {
		says, err = annotated(claim.Annotations)
	}
	if err != nil {
		return "", fmt.Errorf("look up claim %s/%s: %w", ref.Namespace, ref.Name, err)
	}
	return says, nil
}

func (c *Cluster) volume(ctx context.Context, id VolumeID, names []string) (*corev1.PersistentVolume, error) {
	for _, name := range names {
		volume := &corev1.PersistentVolume{}
		err := ask(ctx, c.core.Get().Resource("persistentvolumes"), name, volume)
		if err == nil && isVolume(volume, id) {
			return volume, nil
		}
		if err != nil && !errors.Is(err, ErrNotFound) {
			return nil, err
		}
	}
	return c.searchVolume(ctx, id)
}

func isVolume(volume *corev1.PersistentVolume, id VolumeID) bool {
	source := volume.Spec.CSI
	return source != nil && source.Driver == id.Driver && source.VolumeHandle == id.Handle
}

// searchVolume looks through all PersistentVolumes, page by page: the API selects them by no field but their name.
func (c *Cluster) searchVolume(ctx context.Context, id VolumeID) (*corev1.PersistentVolume, error) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	options := metav1.ListOptions{Limit: volumesAtOnce}
	for {
		page := &corev1.PersistentVolumeList{}
		err := explain(c.core.Get().Resource("persistentvolumes").VersionedParams(&options, parameters).Do(ctx).Into(page))
		if err != nil {
			return nil, err
		}
		for i := range page.Items {
			if isVolume(&page.Items[i], id) {
				return &page.Items[i], nil
			}
		}
		if options.Continue = page.Continue; options.Continue == "" {
			return nil, fmt.Errorf("%w: none has the driver %s and the handle %s", ErrNotFound, id.Driver, id.Handle)
		}
	}
}
