package csi

import (
	"context"
	"errors"
	"os"
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/katadirect/katadirect/internal/rollback"
	"github.com/katadirect/katadirect/pkg/csi/loop"
	"github.com/katadirect/katadirect/pkg/csi/pool"
	"github.com/katadirect/katadirect/pkg/csi/stage"
	"github.com/katadirect/katadirect/pkg/directvolume"
)

// A raw block volume (volumeMode: Block) is the same for a machine and for an ordinary container:
//
//	NodeStageVolume     a loop device over the image
//	NodePublishVolume   <target path>, a file over which the device's node is bound, and a record without a file system
//	NodeExpandVolume    the image grows, then the loop device, then the disk of the machine that has it
//	NodeUnpublish…      record, bind and file go; NodeUnstage…: the loop device goes
//
// kubelet hands the device's number to the runtime. A shim finds the record by the number's device, or by the file
// behind it, claims it, and then has the device for itself.

// isRaw reports whether the volume is a raw block volume.
func isRaw(v pool.Volume) bool { return v.FSType == pool.RawBlock }

// allBlock reports whether the capabilities ask for a raw block volume. A volume cannot be both kinds.
func allBlock(accesses []access) (bool, error) {
	blocks := 0
	for _, a := range accesses {
		if a.block {
			blocks++
		}
	}
	if blocks > 0 && blocks < len(accesses) {
		return false, failf(ErrInvalidArgument, "the volume capabilities ask for a raw block volume and for a mounted one; "+
			"a volume is one of them")
	}
	return blocks > 0, nil
}

// checkKind refuses to use a volume as the other kind.
func checkKind(v pool.Volume, a access) error {
	switch {
	case a.block && !isRaw(v):
		return failf(ErrState, "volume %s was made with %s; it cannot be used as a raw block volume", v.ID, v.FSType)
	case !a.block && isRaw(v):
		return failf(ErrState, "volume %s is a raw block volume (volumeMode: Block); it cannot be mounted", v.ID)
	}
	return nil
}

// stageRaw gives the volume its device. On error the caller takes it back with the rollback.
func (n *node) stageRaw(ctx context.Context, v pool.Volume, a access, undo *rollback.Stack) error {
	if _, err := n.loops.Find(ctx, v.ImagePath); errors.Is(err, loop.ErrNoDevice) {
		undo.Push("detach the loop device", func(ctx context.Context) error { return n.loops.Detach(ctx, v.ImagePath) })
	}
	_, err := n.loops.Attach(ctx, v.ImagePath, a.readOnly())
	return err
}

// unstageRaw takes the device away.
func (n *node) unstageRaw(ctx context.Context, id string) error {
	v, err := n.pool.Get(ctx, id)
	if err != nil {
		// Without an image that can be named, what the device itself is called must do.
		return n.loops.Sweep(ctx, func(name string) bool { return name != id })
	}
	return n.loops.Detach(ctx, v.ImagePath)
}

// publishRaw makes the device node at the target path, and the record, or finds that both are as they should be.
func (n *node) publishRaw(ctx context.Context, v pool.Volume, targetPath string, wanted directvolume.Record) (err error) {
	if err := n.checkFree(ctx, v, targetPath, wanted); err != nil {
		return err
	}
	if err := n.limiter.addLimits(ctx, v.ID, &wanted); err != nil {
		return err
	}
	device, err := n.stagedDevice(ctx, v)
	if err != nil {
		return err
	}
	// The volume is published nowhere else, so this is the only word on it.
	if err := n.loops.SetReadOnly(ctx, v.ImagePath, wanted.ReadOnly() || device.ReadOnly); err != nil {
		return err
	}
	var undo rollback.Stack
	defer undo.OnError(ctx, &err)
	made, err := bindDevice(device, targetPath)
	if err != nil {
		return err
	}
	if made {
		undo.Push("remove the device node", func(context.Context) error { return removeDevice(targetPath) })
	}
	return n.records.store.Add(ctx, targetPath, wanted)
}

// stagedDevice finds the device of a staged volume, and makes it again if somebody on the host has taken it away: kubelet
// stages nothing anew while a pod waits for it.
func (n *node) stagedDevice(ctx context.Context, v pool.Volume) (loop.Device, error) {
	device, err := n.loops.Find(ctx, v.ImagePath)
	if !errors.Is(err, loop.ErrNoDevice) {
		return device, err
	}
	staged, err := n.staged.Get(ctx, v.ID)
	if err != nil {
		return loop.Device{}, err
	}
	n.log.WarnContext(ctx, "the loop device of a staged volume was gone and is made again", "volume", v.ID)
	return n.loops.Attach(ctx, v.ImagePath, staged.ReadOnly)
}

// newRawRecord names the image, not the loop device: the record has to find its volume also when the device has got
// another number, and shims know the one by the other.
func newRawRecord(v pool.Volume, readOnly bool) directvolume.Record {
	r := directvolume.Record{
		VolumeType: directvolume.VolumeTypeBlock,
		Device:     v.ImagePath,
		Metadata: map[string]string{
			directvolume.MetadataVolumeID:  v.ID,
			directvolume.MetadataSizeBytes: strconv.FormatInt(v.SizeBytes, 10),
			directvolume.MetadataBacking:   directvolume.BackingFile,
		},
	}
	if readOnly {
		r.Options = []string{"ro"}
	}
	return r
}

// isDeviceOf reports whether the path is the volume's device by whatever name: kubelet follows links, and after its own
// restart it may name a node of its own.
func (n *node) isDeviceOf(ctx context.Context, id, path string) bool {
	var stat unix.Stat_t
	if err := unix.Stat(path, &stat); err != nil || stat.Mode&unix.S_IFMT != unix.S_IFBLK {
		return false
	}
	v, err := n.pool.Get(ctx, id)
	if err != nil || !isRaw(v) {
		return false
	}
	device, err := n.loops.Find(ctx, v.ImagePath)
	return err == nil && device.Number == stat.Rdev
}

// detachLeftover takes away a loop device that a volume which is to be deleted still has, though nobody has staged it.
// One that somebody uses, or has made, is a use of the volume that no record speaks of.
func (c *controller) detachLeftover(ctx context.Context, id string) error {
	image := c.pool.ImagePath(id) // of a damaged volume too: its image may be all that is left of it
	if info, err := os.Lstat(image); err != nil || !info.Mode().IsRegular() {
		return nil // there is no image that could have one
	}
	if _, err := c.loops.Find(ctx, image); err != nil && !errors.Is(err, loop.ErrNoDevice) && !errors.Is(err, unix.ENOENT) {
		return err
	}
	return c.loops.Detach(ctx, image)
}

// sweepLoops detaches what a driver that was killed has attached and nobody has staged.
func sweepLoops(ctx context.Context, loops *loop.Devices, staged *stage.Store) error {
	return loops.Sweep(ctx, func(id string) bool {
		if pool.ValidateID(id) != nil {
			return false
		}
		present, err := staged.Get(ctx, id)
		return err == nil && (present.FSType == pool.RawBlock || present.OnHost) || err != nil && !errors.Is(err, stage.ErrNotStaged)
	})
}
