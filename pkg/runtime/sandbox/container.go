package sandbox

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"sync"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sync/semaphore"

	"github.com/katadirect/katadirect/internal/rollback"
	"github.com/katadirect/katadirect/pkg/agentproto"
	"github.com/katadirect/katadirect/pkg/directvolume"
	"github.com/katadirect/katadirect/pkg/runtime/sandbox/guestspec"
)

// container is one that the guest has, or is about to have or to lose.
type container struct {
	id string
	// changing, of 1, is held while it is made or removed.
	changing *semaphore.Weighted

	// Guarded by Sandbox.mu.
	demand demand
	ended  bool // its first process has
	// ownPIDs: it is one of the pod's, and sees only its own processes.
	ownPIDs bool

	mu    sync.Mutex
	execs map[string]string // the agent's name of a process by ours
}

// CreateContainer makes a container whose first process waits for StartContainer. On error nothing is left of it,
// except that a volume that the guest may have seen stays plugged in until the sandbox ends.
func (s *Sandbox) CreateContainer(ctx context.Context, r ContainerRequest) (err error) {
	c, err := s.reserve(r.ID)
	if err != nil {
		return err
	}
	defer c.changing.Release(1)
	var undo rollback.Stack
	defer undo.OnError(ctx, &err)
	undo.Push("forget the container", func(context.Context) error { s.forget(c); return nil })

	// First, for what is made of memory is measured against the machine's.
	if err := s.accommodate(ctx, c, resources(r.Spec)); err != nil {
		return err
	}
	rootfs, storages, err := s.rootfs(ctx, r, &undo)
	if err != nil {
		return err
	}
	mounts, more, err := s.mounts(ctx, r, &undo)
	if err != nil {
		return fmt.Errorf("container %s: %w", r.ID, err)
	}
	storages = append(storages, more...)
	devices, err := s.blockDevices(ctx, r)
	if err != nil {
		return fmt.Errorf("container %s: %w", r.ID, err)
	}
	spec, sandboxPIDNS, err := guestspec.For(r.Spec, guestspec.Guest{
		ContainerID: r.ID, Bundle: r.Bundle, Rootfs: rootfs, Mounts: mounts, PIDsOf: s.pidsOf(c, r.Spec),
		Seccomp: s.features.Seccomp && !s.config.Runtime.DisableGuestSeccomp,
		Disks:   containerPaths(devices), DeviceRules: s.deviceRules(r.Spec),
	})
	if err != nil {
		return err
	}
	spec.Process.Terminal = r.Terminal
	s.volumes.Expose(r.ID)
	// Before the call: one that failed half way may have left something.
	undo.Push("remove the container in the guest", func(ctx context.Context) error { return s.removeInGuest(ctx, c) })
	_, err = s.agent.CreateContainer(ctx, &agentproto.CreateContainerRequest{
		ContainerId: r.ID, ExecId: r.ID, Devices: devices, Storages: storages, OCI: agentproto.SpecToProto(spec), SandboxPidns: sandboxPIDNS,
	})
	return err
}

func resources(spec *specs.Spec) *specs.LinuxResources {
	if spec.Linux == nil {
		return nil
	}
	return spec.Linux.Resources
}

// reserve takes the id for a new container and holds it.
func (s *Sandbox) reserve(id string) (*container, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil, errors.Join(ErrStopping, s.err)
	}
	if _, ok := s.containers[id]; ok {
		return nil, fmt.Errorf("container %s: %w", id, ErrExists)
	}
	c := &container{id: id, execs: make(map[string]string), changing: semaphore.NewWeighted(1)}
	c.changing.TryAcquire(1)
	s.containers[id] = c
	return c, nil
}

func (s *Sandbox) forget(c *container) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.containers[c.id] == c {
		delete(s.containers, c.id)
	}
}

func (s *Sandbox) shareRootfs(ctx context.Context, r ContainerRequest, undo *rollback.Stack) (guestPath string, err error) {
	path := filepath.Join(r.Bundle, "rootfs")
	if len(r.Rootfs) == 0 {
		if path, err = rootPath(r); err != nil {
			return "", err
		}
	} else if err := s.state.addRootfs(r.ID, path); err != nil {
		return "", err
	}
	undo.Push("stop sharing files", func(ctx context.Context) error { return s.unshare(ctx, r.ID) })
	return s.share.Rootfs(ctx, r.ID, path, r.Rootfs)
}

func rootPath(r ContainerRequest) (string, error) {
	if r.Spec.Root == nil || r.Spec.Root.Path == "" {
		return "", fmt.Errorf("container %s has no root file system", r.ID)
	}
	if filepath.IsAbs(r.Spec.Root.Path) {
		return r.Spec.Root.Path, nil
	}
	return filepath.Join(r.Bundle, r.Spec.Root.Path), nil
}

// unshare takes back all files that are shared with the container.
func (s *Sandbox) unshare(ctx context.Context, id string) error {
	if err := s.share.Release(ctx, id); err != nil {
		return err
	}
	return s.state.removeRootfs(id)
}

// mounts gives the container's mounts to the guest, each after its kind, and returns them as the guest has them,
// with the storages that the agent must mount for them.
func (s *Sandbox) mounts(ctx context.Context, r ContainerRequest, undo *rollback.Stack) (
	mounts []specs.Mount, storages []*agentproto.Storage, err error,
) {
	undo.Push("give the volumes back", func(ctx context.Context) error { return s.detach(ctx, r.ID) })
	for _, m := range r.Spec.Mounts {
		kind, err := guestspec.KindOf(m)
		if err != nil {
			return nil, nil, err
		}
		switch kind {
		case guestspec.GuestOwn:
			m = guestspec.Own(m)
		case guestspec.PodMemory:
			m = guestspec.SharedMemory(m)
		case guestspec.HostBind:
			var more []*agentproto.Storage
			if m, more, err = s.hostBind(ctx, r.ID, m, hugepageLimits(r.Spec)); err != nil {
				return nil, nil, fmt.Errorf("mount on %s: %w", m.Destination, err)
			}
			storages = append(storages, more...)
		}
		mounts = append(mounts, m)
	}
	return mounts, storages, nil
}

// hostBind gives the volume recorded for the mount's source, or if there is none the source itself.
func (s *Sandbox) hostBind(ctx context.Context, id string, m specs.Mount, hugepages []specs.LinuxHugepageLimit) (
	specs.Mount, []*agentproto.Storage, error,
) {
	if err := s.prepareEmptyDir(ctx, m.Source); err != nil {
		return m, nil, err
	}
	use, err := s.volumes.Attach(ctx, id, m.Source)
	if err == nil {
		return guestspec.FromGuest(m, use.GuestPath), use.Storages, nil
	}
	if !errors.Is(err, directvolume.ErrNotFound) {
		return m, nil, err
	}
	if guestPath, storages, err := s.memoryVolume(id, m, hugepages); err != nil || len(storages) > 0 {
		return guestspec.FromGuest(m, guestPath), storages, err
	}
	guestPath, err := s.share.Bind(ctx, id, m.Source, m.Destination, guestspec.ReadOnly(m))
	if err != nil {
		return m, nil, err
	}
	if storage := watched(m, guestPath); storage != nil {
		return guestspec.FromGuest(m, storage.MountPoint), []*agentproto.Storage{storage}, nil
	}
	return guestspec.FromGuest(m, guestPath), nil, nil
}

// detach gives the container's volumes back. When the machine is gone its disks are too, and Stop releases the claims.
func (s *Sandbox) detach(ctx context.Context, id string) error {
	if s.gone() {
		return nil
	}
	return s.volumes.Detach(ctx, id)
}

// container finds one by its id.
func (s *Sandbox) container(id string) (*container, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	c, ok := s.containers[id]
	if !ok {
		return nil, fmt.Errorf("container %s: %w", id, ErrNotFound)
	}
	return c, nil
}
