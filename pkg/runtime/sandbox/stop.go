package sandbox

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/katadirect/katadirect/pkg/agentproto"
	"github.com/katadirect/katadirect/pkg/directvolume"
	"github.com/katadirect/katadirect/pkg/runtime/network"
	"github.com/katadirect/katadirect/pkg/runtime/qemu"
	"github.com/katadirect/katadirect/pkg/runtime/share"
)

// Stop ends everything and gives back all the sandbox used. It is idempotent, and bounded whatever the guest does.
//
// While the hypervisor lives nothing is given back that it may still write to: should it not die, the claims and the
// lease stay, and the next Stop tries again.
func (s *Sandbox) Stop(ctx context.Context) error {
	s.stopping.Lock()
	defer s.stopping.Unlock()
	s.mu.Lock()
	s.closed = true
	stopped := s.stopped
	s.mu.Unlock()
	if stopped {
		return nil
	}
	s.endGuest(ctx)
	if err := s.machine.Stop(ctx); err != nil {
		return fmt.Errorf("stop sandbox %s: %w", s.id, err)
	}
	select {
	case <-s.done: // what watches the machine ends with it
	case <-ctx.Done():
		return fmt.Errorf("stop sandbox %s: %w", s.id, ctx.Err())
	}
	err := errors.Join(s.ports.Close(), ignoreClosed(s.agent.Close()))
	if waitErr := s.settle(ctx); waitErr != nil {
		return fmt.Errorf("stop sandbox %s: %w", s.id, waitErr)
	}
	// All of it is tried, whatever fails.
	err = errors.Join(err,
		s.management.Close(ctx),
		s.network.Close(ctx),
		s.share.Close(ctx),
		s.volumes.Release(ctx),
		removeEmptyDirs(ctx, s.roots.records(), s.state.emptyDirs()),
		removeFile(filepath.Join(s.bundle, monitorAddress)),
	)
	if err == nil {
		err = s.removeDir()
	}
	if err != nil {
		return fmt.Errorf("stop sandbox %s: %w", s.id, err)
	}
	s.mu.Lock()
	clear(s.containers)
	s.stopped = true
	s.mu.Unlock()
	s.log.Info("sandbox has ended")
	return nil
}

// endGuest lets the guest unmount its volumes in order. A guest that cannot costs its file systems a replay of their
// journals, nothing else.
func (s *Sandbox) endGuest(ctx context.Context) {
	if s.gone() {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, s.times.guestEnd)
	defer cancel()
	s.mu.Lock()
	ids := slices.Sorted(maps.Keys(s.containers))
	s.mu.Unlock()
	for _, id := range ids {
		if err := s.RemoveContainer(ctx, id); err != nil {
			s.log.Warn("the guest did not end a container; its machine is ended next", "container", id, "error", err)
			return
		}
	}
	if _, err := s.agent.DestroySandbox(ctx, &agentproto.DestroySandboxRequest{}); err != nil && !s.gone() {
		s.log.Warn("the guest did not end in order; its machine is ended next", "error", err)
	}
}

// settle waits for what is still being made or removed. It fails soon now: there is no machine to do it with.
func (s *Sandbox) settle(ctx context.Context) error {
	s.mu.Lock()
	containers := slices.Collect(maps.Values(s.containers))
	s.mu.Unlock()
	for _, c := range containers {
		if err := c.changing.Acquire(ctx, 1); err != nil {
			return fmt.Errorf("container %s: %w", c.id, err)
		}
		c.changing.Release(1)
	}
	return nil
}

func ignoreClosed(err error) error {
	if errors.Is(err, os.ErrClosed) {
		return nil
	}
	return err
}

// Cleanup gives back all that a sandbox used whose shim is gone. It is idempotent; an unknown id is success. It
// is for the sandbox's next of kin only: a sandbox that lives loses its machine.
func Cleanup(ctx context.Context, id string, roots Roots) error {
	if err := directvolume.CheckSandboxID(id); err != nil {
		return err
	}
	left, readErr := readRemains(roots.stateFile(id))
	if err := qemu.Kill(ctx, roots.vmDir(id)); err != nil {
		return fmt.Errorf("clean up sandbox %s: %w", id, err)
	}
	// The machine was looked for by its pid file. Whoever is left may still write to the volumes.
	if !awaitLease(ctx, roots.sandboxes(), id) {
		return fmt.Errorf("clean up sandbox %s: %w; its volumes stay claimed", id, directvolume.ErrLeaseHeld)
	}
	err := errors.Join(
		share.Cleanup(ctx, roots.Share, id, left.Daemon, left.Rootfs),
		network.Cleanup(ctx, left.Network),
		roots.records().ReleaseAll(ctx, id),
		removeEmptyDirs(ctx, roots.records(), left.EmptyDirs),
	)
	if left.Bundle != "" {
		err = errors.Join(err, removeFile(filepath.Join(left.Bundle, monitorAddress)))
	}
	if err == nil {
		err = os.RemoveAll(roots.dir(id))
	}
	if err != nil {
		return fmt.Errorf("clean up sandbox %s: %w", id, errors.Join(err, readErr))
	}
	return nil
}

// leaseGrace is how long a process that was killed may take to let go of its files. Its command line is gone before,
// so nobody can wait for it by name; giving back a large guest's memory comes in between.
const leaseGrace = 3 * time.Second

// awaitLease reports whether nobody holds the sandbox's lease, or lets go of it in time.
func awaitLease(ctx context.Context, sandboxes directvolume.Sandboxes, id string) bool {
	ctx, cancel := context.WithTimeout(ctx, leaseGrace)
	defer cancel()
	for sandboxes.LeaseHeld(id) {
		select {
		case <-ctx.Done():
			return false
		case <-time.After(5 * time.Millisecond):
		}
	}
	return true
}
