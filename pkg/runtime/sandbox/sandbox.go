package sandbox

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/katadirect/katadirect/internal/calltimes"
	"github.com/katadirect/katadirect/pkg/agentproto"
	"github.com/katadirect/katadirect/pkg/directvolume"
	"github.com/katadirect/katadirect/pkg/runtime/agentclient"
	"github.com/katadirect/katadirect/pkg/runtime/config"
	"github.com/katadirect/katadirect/pkg/runtime/management"
	"github.com/katadirect/katadirect/pkg/runtime/network"
	"github.com/katadirect/katadirect/pkg/runtime/portforward"
	"github.com/katadirect/katadirect/pkg/runtime/vm"
	"github.com/katadirect/katadirect/pkg/runtime/volume"
)

// Sandbox is one pod's virtual machine and what runs in it. Its methods may be called from several goroutines; two
// that make or remove the same container come one after the other.
type Sandbox struct {
	id, bundle string
	roots      Roots
	config     config.Config
	times      times
	log        *slog.Logger
	calls      *calltimes.Times // of containerd; may be nil

	lease      *os.File
	state      *stateFile
	share      files
	network    *network.Network
	machine    vm.Machine
	console    *console
	agent      *agentclient.Client
	features   agentclient.Features
	ports      *portforward.Forwarder // nil without
	volumes    *volume.Set
	size       size
	management *management.Server

	started time.Time     // when the hypervisor was
	booted  time.Duration // from then to the agent's answer

	// life ends when the sandbox stops or fails; streams and watches end with it.
	life    context.Context
	endLife context.CancelFunc

	done     chan struct{}             // closed by watch, its only goroutine
	noSpace  atomic.Bool               // the machine stands still until the host has space again
	resumed  atomic.Pointer[time.Time] // when it last went on after that; nil if it never stood still
	resizes  atomic.Uint64
	failures atomic.Uint64 // of resizes

	stopping       sync.Mutex          // one Stop at a time
	makingEmptyDir sync.Mutex          // one disk of an emptyDir at a time; guards the map
	sharedEmptyDir map[string]struct{} // folders that stay on the host

	mu         sync.Mutex // guards what follows
	containers map[string]*container
	closed     bool  // no more containers
	stopped    bool  // Stop has succeeded
	err        error // why the machine is gone
}

// PID is the hypervisor's process id.
func (s *Sandbox) PID() int { return s.machine.PID() }

// Features is what the agent in the guest can do.
func (s *Sandbox) Features() agentclient.Features { return s.features }

// Done is closed when the machine is gone: stopped, died, or killed because its agent no longer answered.
func (s *Sandbox) Done() <-chan struct{} { return s.done }

// Err says why the machine is gone; nil while it runs and after Stop.
func (s *Sandbox) Err() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.err
}

// gone reports whether the guest can no longer be asked for anything.
func (s *Sandbox) gone() bool {
	select {
	case <-s.done:
		return true
	case <-s.machine.Done():
		return true
	default:
		return false
	}
}

// The methods below are for the management socket.

// VolumeStats says how full the direct volume on the host's device is.
func (s *Sandbox) VolumeStats(ctx context.Context, device string) (directvolume.VolumeStats, error) {
	if s.standing(time.Now()) { // its guest would answer when it goes on
		return directvolume.VolumeStats{}, fmt.Errorf("stats of %s: %w", device, volume.ErrStanding)
	}
	return s.volumes.Stats(ctx, device)
}

// ResizeVolume makes the direct volume on the host's device sizeBytes large, while it is in use.
func (s *Sandbox) ResizeVolume(ctx context.Context, device string, sizeBytes uint64) error {
	err := s.volumes.Resize(ctx, device, sizeBytes)
	if err != nil {
		s.failures.Add(1)
	} else {
		s.resizes.Add(1)
	}
	return err
}

// FreezeVolume makes the direct volume on the host's device stand still for a while.
func (s *Sandbox) FreezeVolume(ctx context.Context, device string, limit time.Duration) (directvolume.Freeze, error) {
	return s.volumes.Freeze(ctx, device, limit)
}

// ThawVolume lets it go on.
func (s *Sandbox) ThawVolume(ctx context.Context, device string, id uint64) (directvolume.Thaw, error) {
	return s.volumes.Thaw(ctx, device, id)
}

// ThrottleVolume limits what the guest may do with it in a second.
func (s *Sandbox) ThrottleVolume(ctx context.Context, device string, limits directvolume.Limits) error {
	return s.volumes.Throttle(ctx, device, limits)
}

// Volumes tells of all direct volumes.
func (s *Sandbox) Volumes(ctx context.Context) []directvolume.SandboxVolume {
	return s.volumes.Describe(ctx)
}

// AgentURL says where the agent listens.
func (s *Sandbox) AgentURL() string { return s.machine.AgentURL() }

// metricsPatience bounds the wait for the guest's figures: whoever collects metrics gives up soon.
const metricsPatience = 5 * time.Second

// Metrics counts what there is, and asks the guest.
func (s *Sandbox) Metrics(ctx context.Context) management.Metrics {
	s.mu.Lock()
	containers := len(s.containers)
	s.mu.Unlock()
	m := management.Metrics{
		HypervisorPID: s.machine.PID(), Containers: containers, Volumes: len(s.volumes.List()),
		Boot: s.booted, Hotplug: s.volumes.PlugTook(),
		Resizes: s.resizes.Load(), ResizeFailures: s.failures.Load(), AgentCalls: s.agent.CallTimes(),
	}
	if s.calls != nil {
		m.Calls = s.calls.All()
	}
	if s.share != nil {
		m.VirtiofsdPID = s.share.Daemon().PID
	}
	ctx, cancel := context.WithTimeout(ctx, metricsPatience)
	defer cancel()
	guest, err := s.agent.GetMetrics(ctx, &agentproto.GetMetricsRequest{})
	m.Guest, m.GuestError = guest.GetMetrics(), err
	return m
}
