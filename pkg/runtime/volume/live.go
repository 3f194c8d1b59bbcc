package volume

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"

	"github.com/katadirect/katadirect/pkg/agentproto"
	"github.com/katadirect/katadirect/pkg/directvolume"
	"github.com/katadirect/katadirect/pkg/runtime/agentclient"
)

// Bounds on what the guest may answer to a question about one volume.
const (
	maxUsages       = 16
	maxMessageBytes = 1 << 10
)

// Resize makes the volume on the host's device sizeBytes large: first the disk in the machine, then the file system
// on it, while it is in use. A volume that no container uses at the moment grows when the next one mounts it. It may
// be called again after an error; growing to the size it has is success.
//
// ErrUnknown, ErrReadOnly, ErrCannotGrow (nothing was changed), vm.ErrShrink, directvolume.ErrDevice, or what the
// agent said.
func (s *Set) Resize(ctx context.Context, device string, sizeBytes uint64) error {
	if sizeBytes == 0 || sizeBytes > math.MaxInt64 {
		return fmt.Errorf("resize %s: %d is not a size in bytes", device, sizeBytes)
	}
	d, err := s.lookup(device)
	if err != nil {
		return err
	}
	if err := d.busy.Acquire(ctx, 1); err != nil {
		return err
	}
	defer d.busy.Release(1)
	if err := s.resize(ctx, d, sizeBytes); err != nil {
		return fmt.Errorf("resize %s: %w", device, err)
	}
	s.Log.Info("direct volume resized", "device", device, "disk", d.id, "sizeBytes", sizeBytes)
	return nil
}

func (s *Set) resize(ctx context.Context, d *disk, sizeBytes uint64) error {
	inUse := s.inUse(d)
	switch {
	case d.readOnly:
		return ErrReadOnly
	case d.kind == raw:
	case inUse && !s.Features.ResizeVolume, !inUse && !s.Features.GrowOnMount:
		return ErrCannotGrow
	}
	id, _, err := identify(d.device)
	if err != nil {
		return err
	}
	if err := readCapacity(id, d.device); err != nil {
		return err
	}
	if err := s.Disks.ResizeDisk(ctx, d.id, int64(sizeBytes)); err != nil {
		return err
	}
	if d.kind == raw {
		return nil // what is on it is the container's
	}
	// Looked at again: a container that came meanwhile may have had it mounted before the disk grew.
	if !inUse && !s.inUse(d) {
		return nil // the agent grows it when it mounts it
	}
	_, err = s.Agent.ResizeVolume(ctx, &agentproto.ResizeVolumeRequest{VolumeGuestPath: d.guestPath, Size: sizeBytes})
	if agentclient.IsCode(err, codes.Unimplemented) {
		return errors.Join(ErrCannotGrow, err)
	}
	return err
}

// Stats says how full the volume on the host's device is and how it fares, as the guest sees it.
//
// Of a raw device only the size is known.
//
// ErrUnknown, ErrNotMounted, directvolume.ErrDevice, or what the agent said.
func (s *Set) Stats(ctx context.Context, device string) (directvolume.VolumeStats, error) {
	d, err := s.lookup(device)
	if err != nil {
		return directvolume.VolumeStats{}, err
	}
	if d.kind == raw {
		stats, err := rawStats(d.device)
		stats.Condition = withFaults(stats.Condition, s.Disks.DiskFaults(d.id))
		return stats, err
	}
	if !s.inUse(d) {
		return directvolume.VolumeStats{}, fmt.Errorf("stats of %s: %w", device, ErrNotMounted)
	}
	r, err := s.Agent.GetVolumeStats(ctx, &agentproto.VolumeStatsRequest{VolumeGuestPath: d.guestPath})
	if err != nil {
		return directvolume.VolumeStats{}, fmt.Errorf("stats of %s: %w", device, err)
	}
	stats := statsOf(r)
	stats.Condition = withFaults(stats.Condition, s.Disks.DiskFaults(d.id))
	return stats, nil
}

func rawStats(device string) (directvolume.VolumeStats, error) {
	size, err := sizeOf(device)
	if err != nil {
		return directvolume.VolumeStats{}, fmt.Errorf("stats of %s: %w", device, err)
	}
	return directvolume.VolumeStats{Usage: []directvolume.VolumeUsage{{Total: size, Unit: directvolume.UnitBytes}}}, nil
}

func statsOf(r *agentproto.VolumeStatsResponse) directvolume.VolumeStats {
	var stats directvolume.VolumeStats
	for _, u := range r.GetUsage()[:min(len(r.GetUsage()), maxUsages)] {
		stats.Usage = append(stats.Usage, directvolume.VolumeUsage{
			Available: u.GetAvailable(), Total: u.GetTotal(), Used: u.GetUsed(), Unit: directvolume.Unit(u.GetUnit()),
		})
	}
	message := r.GetVolumeCondition().GetMessage()
	stats.Condition = directvolume.VolumeCondition{
		Abnormal: r.GetVolumeCondition().GetAbnormal(),
		Message:  readable(message, maxMessageBytes),
	}
	return stats
}

// lookup finds a disk by the host device, as the record names it or by another name of the same device: of a loop device
// its file is one.
func (s *Set) lookup(device string) (*disk, error) {
	id, _, err := identify(device)
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	d, ok := s.disks[id]
	for other, loop := range s.disks {
		if ok || unix.Major(other.rdev) != loopMajor {
			continue
		}
		if file, isLoop := fileOfLoop(loop.device); isLoop && file == id {
			d, ok = loop, true
		}
	}
	if !ok || d.kind == rootfs {
		return nil, fmt.Errorf("mount %s %w", device, ErrUnknown)
	}
	return d, nil
}

func (s *Set) inUse(d *disk) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return d.exposed && len(d.users) > 0
}

// Info is what can be seen of one volume from outside.
type Info struct {
	// Device is the host's, GuestPath where the guest mounts it.
	Device, GuestPath string
	ReadOnly          bool
	// Containers are the ids of those that use it, sorted.
	Containers []string
}

// List says what is plugged in, sorted by device.
func (s *Set) List() []Info {
	s.mu.Lock()
	defer s.mu.Unlock()
	infos := make([]Info, 0, len(s.disks))
	for _, d := range s.disks {
		info := Info{Device: d.device, GuestPath: d.guestPath, ReadOnly: d.readOnly}
		for c := range d.users {
			info.Containers = append(info.Containers, c)
		}
		slices.Sort(info.Containers)
		infos = append(infos, info)
	}
	slices.SortFunc(infos, func(a, b Info) int { return strings.Compare(a.Device, b.Device) })
	return infos
}
