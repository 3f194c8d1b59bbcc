package csi

import (
	"context"
	"errors"
	"log/slog"
	"maps"
	"math"
	"strconv"
	"strings"

	"github.com/container-storage-interface/spec/lib/go/csi"

	"github.com/katadirect/katadirect/internal/rollback"
	"github.com/katadirect/katadirect/pkg/csi/pool"
	"github.com/katadirect/katadirect/pkg/csi/stage"
)

// An inline volume (CSI "ephemeral") is described in a pod's spec and lives as long as the pod:
//
//	NodePublishVolume     the volume is made, with the mark that it is inline and where; then it is published
//	NodeUnpublishVolume   record and target path go, then the volume with its data
//
// kubelet calls it by a handle of its own, from which the pool derives the id as it does from any other name. It is
// not staged. NodeUnpublishVolume is, beside DeleteVolume, the only call that deletes data, and does so only to what
// has the mark for this very target path: no StorageClass can set it, and it is as durable as the volume.

const (
	// ephemeralKey is set by kubelet in the volume context of an inline volume of a pod.
	ephemeralKey = "csi.storage.k8s.io/ephemeral"
	// parameterSize is how large an inline volume is to be.
	parameterSize = "katadirect.io/size"
	// parameterInline is the mark in the pool: the target path of the one pod that has the volume.
	parameterInline = "katadirect.io/inline-target"

	// kubeletPrefix is of what kubelet adds to an inline volume's attributes: about the pod, and tokens.
	kubeletPrefix = "csi.storage.k8s.io/"
)

// classOnly are parameters that no pod may choose: how much is promised to a volume is the operator's word, and so is
// what the host does to it.
var classOnly = []string{parameterOvercommit, parameterFormat, parameterAllowGuestData}

// poolID returns the id in the pool of what the caller calls so: itself, or the one that an inline volume of that
// handle has.
func (n *node) poolID(handle string) string { return poolIDOf(n.pool.ID, handle) }

func poolIDOf(idOf func(name string) string, handle string) string {
	if handle == "" || pool.IsPoolID(handle) {
		return handle
	}
	return idOf(handle)
}

// publishInline makes the volume, unless an earlier call has, and publishes it.
func (n *node) publishInline(ctx context.Context, r *csi.NodePublishVolumeRequest) (err error) {
	spec, a, err := inlineSpec(r)
	if err != nil {
		return err
	}
	_, err = n.pool.Get(ctx, n.pool.ID(spec.Name))
	isNew := errors.Is(err, pool.ErrNotFound)
	v, err := n.pool.Create(ctx, spec)
	if err != nil {
		return err
	}
	var undo rollback.Stack
	defer undo.OnError(ctx, &err)
	if isNew {
		undo.Push("delete the volume", func(ctx context.Context) error { return n.pool.Delete(ctx, v.ID) })
	}
	if _, err := parseMountOptions(v.FSType, a.options); err != nil {
		return err
	}
	return n.publishVolume(ctx, v, a, r)
}

// inlineSpec reads what the pod's spec says of its volume.
func inlineSpec(r *csi.NodePublishVolumeRequest) (pool.Spec, access, error) {
	fail := func(err error) (pool.Spec, access, error) { return pool.Spec{}, access{}, err }
	a, err := parseAccess(r.GetVolumeCapability())
	switch {
	case err != nil:
		return fail(err)
	case pool.IsPoolID(r.GetVolumeId()):
		return fail(failf(ErrInvalidArgument, "%s is the id of a volume of the pool; an inline volume has a handle of kubelet's", r.GetVolumeId()))
	case a.block:
		return fail(failf(ErrInvalidArgument, "an inline volume cannot be a raw block volume; use a generic ephemeral volume"))
	case r.GetReadonly() || a.readOnly():
		return fail(failf(ErrInvalidArgument, "an inline volume that is read-only would be empty for ever; leave readOnly out"))
	}
	given := maps.Clone(r.GetVolumeContext())
	maps.DeleteFunc(given, func(key, _ string) bool { return strings.HasPrefix(key, kubeletPrefix) && key != parameterFSType })
	size, err := inlineSize(given)
	if err != nil {
		return fail(err)
	}
	for _, key := range classOnly {
		if _, found := given[key]; found {
			return fail(failf(ErrInvalidArgument, "%s is for StorageClasses; an inline volume cannot have it", key))
		}
	}
	p, err := parseParameters(given)
	if err != nil {
		return fail(err)
	}
	fsType, err := singleFSType([]access{a}, p.fsType)
	if err != nil {
		return fail(err)
	}
	if err := p.checkFor(fsType); err != nil {
		return fail(err)
	}
	kept := maps.Clone(p.stored())
	kept[parameterInline] = r.GetTargetPath()
	return pool.Spec{Name: r.GetVolumeId(), FSType: fsType, Parameters: kept, Size: size}, a, nil
}

// inlineSize takes the size out of the attributes. Without one it is the pool's default.
func inlineSize(given map[string]string) (pool.SizeRange, error) {
	text, found := given[parameterSize]
	if !found {
		return pool.SizeRange{}, nil
	}
	delete(given, parameterSize)
	sizeBytes, ok := parseQuantity(text)
	if !ok {
		return pool.SizeRange{}, failf(ErrInvalidArgument, "%s: %q is not a size; write it as in a claim, 5Gi", parameterSize, text)
	}
	return pool.SizeRange{RequiredBytes: sizeBytes}, nil
}

// units are the suffixes of sizes in Kubernetes, in bytes.
var units = map[string]int64{
	"": 1, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "P": 1e15, "E": 1e18,
	"Ki": 1 << 10, "Mi": 1 << 20, "Gi": 1 << 30, "Ti": 1 << 40, "Pi": 1 << 50, "Ei": 1 << 60,
}

// parseQuantity reads a size as Kubernetes writes them, in whole units and more than none.
func parseQuantity(text string) (sizeBytes int64, ok bool) {
	digits := strings.TrimRight(text, "kKMGTPEi")
	unit, known := units[text[len(digits):]]
	count, err := strconv.ParseUint(digits, 10, 63)
	if !known || err != nil || count == 0 || int64(count) > math.MaxInt64/unit {
		return 0, false
	}
	return int64(count) * unit, true
}

// inlineVolumes deletes inline volumes.
type inlineVolumes struct {
	pool    *pool.Pool
	records records
	staged  *stage.Store
	log     *slog.Logger
}

// delete deletes the volume if it is an inline one of that target path. Anything else is left alone.
func (i inlineVolumes) delete(ctx context.Context, id, targetPath string) error {
	v, err := i.pool.Get(ctx, id)
	if err != nil || v.Parameters[parameterInline] == "" {
		return nil // a damaged one says nothing of itself: for a person to look at
	}
	if owner := v.Parameters[parameterInline]; owner != targetPath {
		i.log.WarnContext(ctx, "an inline volume is unpublished at another path than it was made for; its data stays",
			"volume", id, "path", targetPath, "made for", owner)
		return nil
	}
	publications, err := i.records.of(ctx, v)
	if err != nil {
		return err
	}
	if len(publications) > 0 {
		return failf(ErrInUse, "inline volume %s is still recorded at %s; its data stays", id, publications[0].path)
	}
	// The host may have it mounted still, where kubelet has gone without its last call.
	if _, err := i.staged.Get(ctx, id); !errors.Is(err, stage.ErrNotStaged) {
		return errors.Join(err, failf(ErrInUse, "inline volume %s is still mounted on the host at %s; its data stays", id, targetPath))
	}
	return i.pool.Delete(ctx, id)
}
