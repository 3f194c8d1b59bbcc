package sandbox

import (
	"context"
	"fmt"
	"sync"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/katadirect/katadirect/internal/rollback"
	"github.com/katadirect/katadirect/pkg/agentproto"
	"github.com/katadirect/katadirect/pkg/runtime/sandbox/sizing"
	"github.com/katadirect/katadirect/pkg/runtime/vm"
)

// size is how large the machine is and may become.
type size struct {
	limits sizing.Limits

	mu  sync.Mutex     // held while the machine grows
	now sizing.Machine // what the guest has in use
}

// planSize decides how large the machine boots. With static_sandbox_resource_mgmt it gets everything now that the
// pod's containers will need; without, it starts at the defaults and grows with each container.
func (s *Sandbox) planSize(_ context.Context, o Options, _ *rollback.Stack) error {
	host, err := sizing.Host()
	if err != nil {
		return err
	}
	h := s.config.Hypervisor
	s.size.limits = sizing.Limits{
		Base: sizing.Machine{VCPUs: h.VCPUs, MemoryMiB: h.MemoryMiB},
		Most: sizing.Most(h.MaxVCPUs, h.MaxMemoryMiB, host),
	}
	s.size.now = s.size.limits.Base
	if !s.config.Runtime.StaticResources {
		s.size.limits.StepMiB = vm.MemoryStepMiB
		return nil
	}
	workload, err := sizing.OfPod(o.Spec.Annotations)
	if err != nil {
		return err
	}
	if workload == (sizing.Size{}) && o.Spec.Linux != nil {
		// A container without a pod has its limits in its own spec. A pod's own container has none.
		if workload, err = sizing.OfContainer(o.Spec.Linux.Resources); err != nil {
			return err
		}
	}
	s.size.now, err = s.size.limits.For(workload)
	return err
}

// accommodate makes the machine large enough for the container's limits beside those of the others. Nothing is taken
// away again when limits sink or containers end: the next one finds it there.
func (s *Sandbox) accommodate(ctx context.Context, c *container, r *specs.LinuxResources) error {
	before := s.demandOf(c)
	limits := sizing.Update(before.limits, r)
	wanted, err := sizing.OfContainer(limits)
	if err != nil {
		return fmt.Errorf("container %s: %w", c.id, err)
	}
	s.setDemand(c, demand{limits, wanted})
	if s.config.Runtime.StaticResources {
		return nil
	}
	if err := s.grow(ctx); err != nil {
		s.setDemand(c, before)
		return fmt.Errorf("container %s: %w", c.id, err)
	}
	return nil
}

// demand is what a container may use. An update of its limits need not name all of them.
type demand struct {
	limits *specs.LinuxResources
	size   sizing.Size // by them
}

func (s *Sandbox) demandOf(c *container) demand {
	s.mu.Lock()
	defer s.mu.Unlock()
	return c.demand
}

func (s *Sandbox) setDemand(c *container, d demand) {
	s.mu.Lock()
	defer s.mu.Unlock()
	c.demand = d
}

// workload is what all containers that have not ended may use.
func (s *Sandbox) workload() (sum sizing.Size) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, c := range s.containers {
		if !c.ended {
			sum = sum.Add(c.demand.size)
		}
	}
	return sum
}

// grow plugs in what the workload lacks, and has the guest use it.
func (s *Sandbox) grow(ctx context.Context) error {
	s.size.mu.Lock()
	defer s.size.mu.Unlock()
	wanted, err := s.size.limits.For(s.workload())
	if err != nil {
		return err
	}
	now := &s.size.now
	if wanted.VCPUs <= now.VCPUs && wanted.MemoryMiB <= now.MemoryMiB {
		return nil
	}
	plugged := 0
	if wanted.VCPUs > now.VCPUs {
		if plugged, err = s.machine.GrowVCPUs(ctx, wanted.VCPUs); err != nil {
			return err
		}
	}
	memory, err := s.machine.GrowMemory(ctx, wanted.MemoryMiB)
	if err != nil {
		return err
	}
	// Processors of an earlier try, that the guest may or may not have taken since, are not waited for again: an agent
	// counts only those that it brings into use in this call.
	_, err = s.agent.OnlineCPUMem(ctx, &agentproto.OnlineCPUMemRequest{Wait: plugged > 0, NbCpus: uint32(plugged)})
	if err != nil {
		return err
	}
	*now = sizing.Machine{VCPUs: max(wanted.VCPUs, now.VCPUs), MemoryMiB: max(memory, now.MemoryMiB)}
	s.log.Info("the machine has grown", "vcpus", now.VCPUs, "memoryMiB", now.MemoryMiB)
	return nil
}

// memoryBytes is the machine's memory now.
func (s *Sandbox) memoryBytes() int64 {
	s.size.mu.Lock()
	defer s.size.mu.Unlock()
	return int64(s.size.now.MemoryMiB) << 20
}
