package volume

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"

	"golang.org/x/sync/semaphore"
	"time"

	"github.com/katadirect/katadirect/internal/rollback"
	"github.com/katadirect/katadirect/pkg/agentproto"
	"github.com/katadirect/katadirect/pkg/directvolume"
	"github.com/katadirect/katadirect/pkg/runtime/agentclient"
	"github.com/katadirect/katadirect/pkg/runtime/vm"
)

var (
	// ErrDisabled says that a volume is recorded, or a device asked for, and the configuration forbids block devices in
	// the guest. Sharing the recorded folder instead would give the container an empty folder of the host.
	ErrDisabled = errors.New("it takes a block device in the guest, which disable_block_device_use = true in the " +
		"configuration forbids")
	// ErrReadOnly says that the disk is plugged read-only and somebody wants to change it.
	ErrReadOnly = errors.New("the volume's disk is plugged read-only")
	// ErrUnsupported says that a record asks for what this runtime does not do and must not pretend to have done.
	ErrUnsupported = errors.New("the record asks for what this runtime cannot do")
	// ErrOtherUse says that a device is in the machine for another purpose: mounted, as a raw device, or as a
	// container's root file system. Two of these at once would destroy what is on it.
	ErrOtherUse = errors.New("the device is in use in another way")
	// ErrUnknown says that no volume of the sandbox has the device.
	ErrUnknown = errors.New("not found in sandbox")
	// ErrNotMounted says that no container uses the volume at the moment, so the guest has not mounted it.
	ErrNotMounted = errors.New("no container of the sandbox uses the volume at the moment")
	// ErrStanding says that the machine stands still because the host has no space for what it writes.
	ErrStanding = errors.New("no space is left on the host for what the machine writes: it stands still until there is some")
	// ErrCannotFreeze says that the agent in the guest is one that cannot freeze a file system.
	ErrCannotFreeze = errors.New("the agent in the guest cannot freeze a mounted file system; " +
		"use a guest image with katadirect's agent")
	// ErrCannotGrow says that the agent in the guest is one that cannot grow a file system.
	ErrCannotGrow = errors.New("the agent in the guest cannot grow a mounted file system; " +
		"recreate the pod to let the new size take effect, or use a guest image with katadirect's agent")
)

// Disks is what the package needs of the machine; vm.Machine has it.
type Disks interface {
	PlugDisk(ctx context.Context, d vm.Disk) (vm.DiskAddress, error)
	UnplugDisk(ctx context.Context, id string) error
	ResizeDisk(ctx context.Context, id string, sizeBytes int64) error
	ThrottleDisk(ctx context.Context, id string, limits vm.DiskLimits) error
	CopyDisk(ctx context.Context, id, target string) (vm.DiskCopy, error)
	DiskFaults(id string) vm.DiskFaults
}

// Agent is what it needs of the guest; agentclient.Client has it.
type Agent interface {
	GetVolumeStats(context.Context, *agentproto.VolumeStatsRequest) (*agentproto.VolumeStatsResponse, error)
	ResizeVolume(context.Context, *agentproto.ResizeVolumeRequest) (*agentproto.Empty, error)
	agentproto.VolumesService
}

// Config is what a Set works with.
type Config struct {
	// Sandbox is the id under which volumes are claimed; its lease must be held already.
	Sandbox  string
	Records  *directvolume.Store
	Disks    Disks
	Agent    Agent
	Features agentclient.Features
	// Disabled is disable_block_device_use.
	Disabled bool
	Log      *slog.Logger
}

// Set is the direct volumes of one sandbox. Its methods may be called from several goroutines: Attach and Detach
// wait for each other, Resize and Stats only for what happens to the same disk.
type Set struct {
	Config

	changing *semaphore.Weighted // of 1; held by Attach, Detach and Release
	copies   copies

	mu       sync.Mutex // guards the map, the fields of the disks and plugTook
	disks    map[identity]*disk
	plugTook time.Duration
}

// disk is a device that is plugged in, or was and could not be unplugged.
type disk struct {
	busy *semaphore.Weighted // of 1; held while the disk changes its size or goes

	id        string
	kind      kind
	device    string // the first record's path of it
	guestPath string // of a mounted one
	address   vm.DiskAddress
	readOnly  bool
	exposed   bool                // the guest may have mounted it
	stuck     bool                // plugging failed, and so did unplugging
	paths     map[string]struct{} // the claimed volume paths
	users     map[string]struct{} // containers
}

// Use is what becomes of one bind mount.
type Use struct {
	// GuestPath is where the guest has the volume, or the part of it; the container's mount becomes a bind of it.
	GuestPath string
	// Storages go to the agent with the container, in this order. That of the volume is not among them for a
	// container's second mount of it: the agent counts storages, and this one is counted already.
	Storages []*agentproto.Storage
}

// New makes an empty set.
func New(c Config) *Set {
	return &Set{Config: c, changing: semaphore.NewWeighted(1), disks: make(map[identity]*disk)}
}

// Attach gives the volume recorded for source, the source path of a bind mount, to the container, or the part of it
// that source stands for (a subPath).
//
// directvolume.ErrNotFound: there is none; the mount is an ordinary one. Every other error must fail the container,
// and then nothing of this call is left. What it is may be told by directvolume's errors (ErrInvalid, ErrClaimed,
// ErrDevice), vm's (ErrNoSlot, ErrInUse), ErrSubPath and the ones above.
func (s *Set) Attach(ctx context.Context, container, source string) (Use, error) {
	if err := s.changing.Acquire(ctx, 1); err != nil {
		return Use{}, err
	}
	defer s.changing.Release(1)
	place, err := s.locate(ctx, source)
	if err != nil {
		return Use{}, err
	}
	if s.Disabled {
		return Use{}, fmt.Errorf("%s: %w", place.volume, ErrDisabled)
	}
	return s.attach(ctx, container, place)
}

func (s *Set) attach(ctx context.Context, container string, place place) (use Use, err error) {
	source := place.volume
	record, err := s.Records.Claim(ctx, source, s.Sandbox)
	if err != nil {
		return Use{}, err
	}
	var undo rollback.Stack
	defer undo.OnError(ctx, &err)
	undo.Push("release the claim", func(ctx context.Context) error {
		if s.claimed(source) { // by another container, or with a disk that could not be unplugged
			return nil
		}
		return s.Records.Release(ctx, source, s.Sandbox)
	})
	w, err := newWish(record, s.Features)
	if err == nil {
		err = refuseBlank(w, s.Features)
	}
	if err != nil {
		return Use{}, fmt.Errorf("direct volume %s: %w", source, err)
	}
	d, err := s.find(ctx, w, mounted, source)
	if err != nil {
		return Use{}, fmt.Errorf("direct volume %s: %w", source, err)
	}
	return s.use(d, w, container, source).with(s.part(container, d.guestPath, place)), nil
}

// find returns the device's disk, plugging it in if it is not there yet. sources are the recorded paths of it.
func (s *Set) find(ctx context.Context, w wish, k kind, sources ...string) (*disk, error) {
	s.mu.Lock()
	d, ok := s.disks[w.identity]
	s.mu.Unlock()
	if ok && d.stuck {
		if err := s.drop(ctx, w.identity, d); err != nil {
			return nil, err
		}
		ok = false
	}
	if !ok {
		return s.plug(ctx, w, k, sources)
	}
	if d.kind != k {
		return nil, fmt.Errorf("%s: %w in this pod: as %s, not as %s", w.device, ErrOtherUse, d.kind, k)
	}
	if d.readOnly && !w.readOnly {
		return nil, fmt.Errorf("%s: %w by another record", w.device, ErrReadOnly)
	}
	return d, nil
}

// plug plugs a new disk in. Should the attempt fail and leave a disk that does not come out again either, the disk
// is kept in mind, and its claim with it: another machine must not have the device then.
func (s *Set) plug(ctx context.Context, w wish, k kind, sources []string) (_ *disk, err error) {
	d := &disk{
		busy: semaphore.NewWeighted(1), id: w.identity.diskID(), kind: k, device: w.device, readOnly: w.readOnly,
		paths: make(map[string]struct{}), users: make(map[string]struct{}),
	}
	if err := checkLoops(w.identity); err != nil {
		return nil, fmt.Errorf("plug in %s: %w", w.device, err)
	}
	var undo rollback.Stack
	defer undo.OnError(ctx, &err)
	// Before the attempt: one that was cut short may have plugged it all the same.
	undo.Push("unplug "+w.device, func(ctx context.Context) error {
		err := s.Disks.UnplugDisk(ctx, d.id)
		if err != nil {
			d.stuck = true
			for _, source := range sources {
				d.paths[source] = struct{}{}
			}
			s.add(w.identity, d)
		}
		return err
	})
	start := time.Now()
	d.address, err = s.Disks.PlugDisk(ctx, vm.Disk{ID: d.id, Path: w.device, ReadOnly: w.readOnly})
	if err != nil {
		return nil, fmt.Errorf("plug in %s: %w", w.device, err)
	}
	if !w.limits.None() { // before the guest is told of the volume
		if err := s.Disks.ThrottleDisk(ctx, d.id, vm.DiskLimits(w.limits)); err != nil {
			return nil, fmt.Errorf("limit %s to %s: %w", w.device, w.limits, err)
		}
	}
	if k == mounted {
		d.guestPath = guestPath(d.address)
	}
	s.add(w.identity, d)
	s.mu.Lock()
	s.plugTook = time.Since(start)
	s.mu.Unlock()
	s.Log.Info("direct volume plugged in", "as", d.kind, "device", d.device, "disk", d.id, "address", d.address.Source,
		"readOnly", d.readOnly)
	return d, nil
}

// PlugTook is how long the machine took to take the latest disk, 0 when there was none.
func (s *Set) PlugTook() time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.plugTook
}

func (s *Set) add(id identity, d *disk) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.disks[id] = d
}

func (s *Set) use(d *disk, w wish, container, source string) Use {
	s.mu.Lock()
	defer s.mu.Unlock()
	use := Use{GuestPath: d.guestPath}
	if _, counted := d.users[container]; !counted {
		use.Storages = append(use.Storages, w.storage(d.address))
	}
	d.paths[source] = struct{}{}
	d.users[container] = struct{}{}
	return use
}

func (s *Set) claimed(source string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, d := range s.disks {
		if _, ok := d.paths[source]; ok {
			return true
		}
	}
	return false
}

// Expose says that the agent is told of the container now: its volumes may be mounted in the guest from here on, so
// that Detach no longer unplugs what only this container has seen.
func (s *Set) Expose(container string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, d := range s.disks {
		if _, ok := d.users[container]; ok {
			d.exposed = true
		}
	}
}
