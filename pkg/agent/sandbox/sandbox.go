// Package sandbox is the pod inside the machine: what its containers share
// (namespaces, name resolution, storages, news of killed processes), and which
// containers there are.
//
// pkg/agent/server calls it for the methods of the protocol that are about the
// sandbox or about a container as a whole. There is one sandbox in a machine,
// and its end is the machine's.
package sandbox

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"github.com/katadirect/katadirect/internal/rollback"
	"github.com/katadirect/katadirect/pkg/agent/container"
	"github.com/katadirect/katadirect/pkg/agent/module"
	"github.com/katadirect/katadirect/pkg/agent/storage"
	"github.com/katadirect/katadirect/pkg/agentproto"
)

var (
	// ErrNoContainer is returned for a container that the sandbox does not
	// have.
	ErrNoContainer = errors.New("no such container")
	// ErrState is returned when the sandbox exists already, or not yet, or no
	// more.
	ErrState = errors.New("sandbox is not in the right state")
)

// Dir is Kata's folder for everything of the pod in the guest.
const Dir = "/run/kata-containers"

// oomEvents is how many killed containers are remembered for a shim that is
// not asking.
const oomEvents = 64

// Sandbox is the pod. Its exported fields are set once, before use.
type Sandbox struct {
	Runtime *container.Runtime
	Mounts  *storage.Mounts
	Modules *module.Loader

	ooms chan string
	done chan struct{}

	mu         sync.Mutex
	state      state
	id         string
	containers map[string]*member
	// first is the container whose pid namespace is the pod's.
	first *container.Container

	sharing sync.Mutex // held while that namespace is made the pod's

	shares *shares
}

// state is where the sandbox is on its one way.
type state int

const (
	unborn state = iota
	alive
	dead
)

// member is a container with what was mounted for it.
type member struct {
	container *container.Container // nil while it is being made
	storages  []string             // mount points
	settled   chan struct{}        // closed when it has been made, or not
}

// New returns the sandbox of this machine, which Create brings to life.
func New(r *container.Runtime, m *storage.Mounts, l *module.Loader) *Sandbox {
	return &Sandbox{
		Runtime: r, Mounts: m, Modules: l,
		ooms:       make(chan string, oomEvents),
		done:       make(chan struct{}),
		containers: make(map[string]*member),
		shares:     newShares(m.MountPoints),
	}
}

// Create makes what the pod's containers will share. A sandbox that could not
// be made leaves nothing behind, and may be created again.
func (s *Sandbox) Create(ctx context.Context, req *agentproto.CreateSandboxRequest) (err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.state != unborn {
		return fmt.Errorf("create sandbox: %w: there is one", ErrState)
	}
	var undo rollback.Stack
	defer undo.OnError(ctx, &err)

	for _, m := range req.GetKernelModules() {
		if err := s.Modules.LoadModule(m.GetName(), m.GetParameters()...); err != nil {
			return fmt.Errorf("create sandbox: %w", err)
		}
	}
	if err := os.MkdirAll(filepath.Join(Dir, "sandbox"), 0o755); err != nil {
		return fmt.Errorf("create sandbox: %w", err)
	}
	undo.Push("remove the pod's namespaces", func(context.Context) error { return removeNamespaces() })
	if err := makeNamespaces(req.GetHostname()); err != nil {
		return fmt.Errorf("create sandbox: %w", err)
	}
	if err := writeResolvConf(req.GetDns()); err != nil {
		return fmt.Errorf("create sandbox: %w", err)
	}
	for _, st := range req.GetStorages() {
		if err := s.Mounts.Add(ctx, st); err != nil {
			return fmt.Errorf("create sandbox: %w", err)
		}
		undo.Push("release storage", func(ctx context.Context) error { return s.Mounts.Release(ctx, st.GetMountPoint()) })
	}
	s.state, s.id = alive, req.GetSandboxId()
	slog.Info("sandbox is created", "sandbox", s.id, "hostname", req.GetHostname())
	return nil
}

// writeResolvConf writes the lines of resolv.conf for programs in the guest.
func writeResolvConf(lines []string) error {
	if len(lines) == 0 {
		return nil
	}
	content := strings.Join(lines, "\n") + "\n"
	for _, path := range []string{filepath.Join(Dir, "sandbox/resolv.conf"), "/etc/resolv.conf"} {
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
			return fmt.Errorf("name resolution: %w", err)
		}
	}
	return nil
}

// Destroy ends every container and unmounts everything. It goes on after
// errors, and returns them joined; the sandbox is dead either way.
func (s *Sandbox) Destroy(ctx context.Context) error {
	s.mu.Lock()
	if s.state == dead {
		s.mu.Unlock()
		return nil
	}
	s.state = dead
	close(s.done)
	var ids []string
	for id := range s.containers {
		ids = append(ids, id)
	}
	s.mu.Unlock()

	var failures []error
	for _, id := range ids {
		if err := s.RemoveContainer(ctx, id); err != nil && !errors.Is(err, ErrNoContainer) {
			failures = append(failures, err)
		}
	}
	failures = append(failures, s.shares.end(ctx), s.Mounts.ReleaseAll(ctx), removeNamespaces())
	slog.Info("sandbox is destroyed", "sandbox", s.id)
	return errors.Join(failures...)
}

// NextOOM waits for the kernel to kill a container's process for want of
// memory, and returns the container's id. ErrState when the sandbox ends.
func (s *Sandbox) NextOOM(ctx context.Context) (containerID string, err error) {
	select {
	case id := <-s.ooms:
		return id, nil
	default:
	}
	select {
	case id := <-s.ooms:
		return id, nil
	case <-s.done:
		return "", fmt.Errorf("wait for a killed process: %w: it has ended", ErrState)
	case <-ctx.Done():
		return "", ctx.Err()
	}
}

// reportOOM never waits: with nobody asking, the oldest news make room.
func (s *Sandbox) reportOOM(containerID string) {
	slog.Warn("the kernel has killed a process for want of memory", "container", containerID)
	for {
		select {
		case s.ooms <- containerID:
			return
		default:
		}
		select {
		case <-s.ooms:
		default:
		}
	}
}
