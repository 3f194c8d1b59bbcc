package volume

import (
	"context"
	"errors"
	"fmt"

	"github.com/katadirect/katadirect/pkg/directvolume"
)

// Detach takes the container's volumes back. The agent must have unmounted them: the hypervisor does not refuse to
// unplug a mounted disk, and its file system dies with it. Idempotent. What could not be unplugged stays claimed,
// and is tried again with the next Detach of any container.
func (s *Set) Detach(ctx context.Context, container string) error {
	if err := s.changing.Acquire(ctx, 1); err != nil {
		return err
	}
	defer s.changing.Release(1)

	var failures []error
	for id, d := range s.withoutUser(container) {
		if err := s.dropIfUnwanted(ctx, id, d); err != nil {
			failures = append(failures, err)
		}
	}
	return errors.Join(failures...)
}

// withoutUser strikes the container out everywhere and returns the disks that nobody uses now.
func (s *Set) withoutUser(container string) map[identity]*disk {
	s.mu.Lock()
	defer s.mu.Unlock()
	idle := make(map[identity]*disk)
	for id, d := range s.disks {
		delete(d.users, container)
		if len(d.users) == 0 {
			idle[id] = d
		}
	}
	return idle
}

// dropIfUnwanted unplugs a disk that nobody uses, unless the pod may come back to it.
func (s *Set) dropIfUnwanted(ctx context.Context, id identity, d *disk) error {
	if d.exposed && d.kind != rootfs {
		wanted, err := s.recorded(ctx, d)
		if wanted || err != nil {
			return err
		}
	}
	return s.drop(ctx, id, d)
}

func (s *Set) drop(ctx context.Context, id identity, d *disk) error {
	if err := d.busy.Acquire(ctx, 1); err != nil {
		return err
	}
	defer d.busy.Release(1)
	if err := s.Disks.UnplugDisk(ctx, d.id); err != nil {
		return fmt.Errorf("unplug %s: %w", d.device, err)
	}
	s.Log.Info("direct volume unplugged", "device", d.device, "disk", d.id)
	s.mu.Lock()
	delete(s.disks, id)
	s.mu.Unlock()
	var failures []error
	for path := range d.paths {
		if !s.claimed(path) { // a record that was exchanged may have led another disk here
			failures = append(failures, s.Records.Release(ctx, path, s.Sandbox))
		}
	}
	return errors.Join(failures...)
}

// recorded reports whether one of the volume's records is still there, readable or not. A raw device that never had
// one is the pod's until its end.
func (s *Set) recorded(ctx context.Context, d *disk) (bool, error) {
	if len(d.paths) == 0 {
		return true, nil
	}
	for path := range d.paths {
		_, err := s.Records.Get(ctx, path)
		if ctx.Err() != nil {
			return true, ctx.Err()
		}
		if !errors.Is(err, directvolume.ErrNotFound) {
			return true, nil
		}
	}
	return false, nil
}

// Release gives every claim of the sandbox back. The machine must be gone. Idempotent.
func (s *Set) Release(ctx context.Context) error {
	if err := s.changing.Acquire(ctx, 1); err != nil {
		return err
	}
	defer s.changing.Release(1)
	if err := s.Records.ReleaseAll(ctx, s.Sandbox); err != nil {
		return fmt.Errorf("release the volumes of sandbox %s: %w", s.Sandbox, err)
	}
	s.mu.Lock()
	clear(s.disks)
	s.mu.Unlock()
	return nil
}
