package sandbox

import (
	"errors"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/katadirect/katadirect/pkg/runtime/sandbox/sizing"
)

// limited is a container with limits: parts of a processor in hundredths, and memory in MiB.
func (h *host) limited(id string, percent, memoryMiB int64) ContainerRequest {
	r := h.container(id)
	r.Spec.Linux = &specs.Linux{Resources: limits(percent, memoryMiB)}
	return r
}

func limits(percent, memoryMiB int64) *specs.LinuxResources {
	period, quota, bytes := uint64(100_000), percent*1000, memoryMiB<<20
	return &specs.LinuxResources{CPU: &specs.LinuxCPU{Quota: &quota, Period: &period}, Memory: &specs.LinuxMemory{Limit: &bytes}}
}

// grownTo is what the machine was last told to have.
func (h *host) grownTo(vcpus, memoryMiB int) {
	h.t.Helper()
	h.machine.mu.Lock()
	defer h.machine.mu.Unlock()
	if h.machine.vcpus != vcpus || h.machine.memoryMiB != memoryMiB {
		h.t.Errorf("the machine was grown to %d processors and %d MiB, want %d and %d", h.machine.vcpus, h.machine.memoryMiB, vcpus, memoryMiB)
	}
}

func TestTheMachineGrowsWithWhatItsContainersMayUse(t *testing.T) {
	h := newHost(t)
	h.options.Config.Hypervisor.MemoryMiB = 256
	s := h.create()
	s.size.limits.Most = sizing.Machine{VCPUs: 8, MemoryMiB: 2048} // whatever this host has
	if err := s.CreateContainer(t.Context(), h.limited("c1", 0, 0)); err != nil {
		t.Fatal(err)
	}
	h.grownTo(0, 0)
	if err := s.CreateContainer(t.Context(), h.limited("c2", 150, 512)); err != nil {
		t.Fatal(err)
	}
	h.grownTo(3, 768)
	if !h.agent.called("OnlineCPUMem 2") {
		t.Errorf("the guest was told %v", h.agent.calls)
	}
	if err := s.Update(t.Context(), "c1", limits(100, 256)); err != nil {
		t.Fatal(err)
	}
	h.grownTo(4, 1024)
	if !h.agent.called("UpdateContainer c1") {
		t.Error("the guest's container has the old limits")
	}
	if err := s.Update(t.Context(), "c1", limits(0, 0)); err != nil {
		t.Fatal(err)
	}
	h.grownTo(4, 1024)

	// An init container makes room when it has ended.
	if _, err := s.Wait(t.Context(), "c2", ""); err != nil {
		t.Fatal(err)
	}
	if err := s.CreateContainer(t.Context(), h.limited("c3", 150, 512)); err != nil {
		t.Fatal(err)
	}
	h.grownTo(4, 1024)

	err := s.CreateContainer(t.Context(), h.limited("c4", 0, 1281))
	if !errors.Is(err, sizing.ErrTooLarge) || !strings.Contains(err.Error(), "c4") {
		t.Errorf("more than the most: %v", err)
	}
	if err := s.Update(t.Context(), "c1", limits(0, 1281)); !errors.Is(err, sizing.ErrTooLarge) {
		t.Errorf("more than the most by an update: %v", err)
	}
	if h.agent.called("CreateContainer c4") {
		t.Error("the guest heard of the container")
	}
	// What did not come about is not counted.
	if err := s.CreateContainer(t.Context(), h.limited("c5", 0, 512)); err != nil {
		t.Error(err)
	}
}

func TestAContainerWhoseMachineDoesNotGrowFails(t *testing.T) {
	h := newHost(t)
	s := h.create()
	s.size.limits.Most = sizing.Machine{VCPUs: 8, MemoryMiB: 8192}
	h.machine.failGrow = errInjected
	if err := s.CreateContainer(t.Context(), h.limited("c1", 100, 0)); !errors.Is(err, errInjected) {
		t.Errorf("error %v", err)
	}
	h.machine.failGrow = nil
	h.agent.failWith("OnlineCPUMem", errInjected)
	if err := s.CreateContainer(t.Context(), h.limited("c1", 100, 0)); err == nil {
		t.Error("the guest did not take the processor, and nobody said so")
	}
	// The next try does not wait for the processor that is plugged in already: nobody knows whether it is in use.
	h.agent.failWith("OnlineCPUMem", nil)
	h.agent.calls = nil
	if err := s.CreateContainer(t.Context(), h.limited("c1", 100, 0)); err != nil || !h.agent.called("OnlineCPUMem 0") {
		t.Errorf("%v, the guest was told %v", err, h.agent.calls)
	}
}

func TestAMachineOfAFixedSizeHasWhatThePodNeeds(t *testing.T) {
	h := newHost(t)
	h.options.Config.Hypervisor.MemoryMiB = 256
	h.options.Config.Runtime.StaticResources = true
	h.options.Spec.Annotations = map[string]string{
		"io.kubernetes.cri.sandbox-cpu-quota": "100000", "io.kubernetes.cri.sandbox-cpu-period": "100000",
		"io.kubernetes.cri.sandbox-memory": "536870912",
	}
	s := h.create()
	got, err := s.machineConfig()
	if err != nil || got.MemoryMiB != 768 || got.VCPUs != min(2, s.size.limits.Most.VCPUs) || got.MaxVCPUs != 0 || got.MaxMemoryMiB != 0 {
		t.Errorf("machine %+v, %v", got, err)
	}
	if err := s.CreateContainer(t.Context(), h.limited("c1", 400, 4096)); err != nil {
		t.Error(err)
	}
	h.grownTo(0, 0)
	bad := h.limited("c2", 0, 0)
	*bad.Spec.Linux.Resources.Memory.Limit = -77
	if err := s.CreateContainer(t.Context(), bad); !errors.Is(err, sizing.ErrInvalid) {
		t.Errorf("a limit of -77: %v", err)
	}
}

func TestAPodTooLargeForTheHostIsRefusedBeforeItBoots(t *testing.T) {
	h := newHost(t)
	h.options.Config.Runtime.StaticResources = true
	for annotation, want := range map[string]error{"4503599627370496": sizing.ErrTooLarge, "1125899906842624": sizing.ErrTooLarge, "x": sizing.ErrInvalid} {
		h.options.Spec.Annotations = map[string]string{"io.kubernetes.cri.sandbox-memory": annotation}
		if _, err := Create(t.Context(), h.options); !errors.Is(err, want) {
			t.Errorf("memory %q: %v, want %v", annotation, err, want)
		}
	}
	h.nothingLeft()
}

func TestAnUpdateOfSomeLimitsLeavesTheOthers(t *testing.T) {
	h := newHost(t)
	h.options.Config.Hypervisor.MemoryMiB = 256
	s := h.create()
	s.size.limits.Most = sizing.Machine{VCPUs: 8, MemoryMiB: 2048}
	if err := s.CreateContainer(t.Context(), h.limited("c1", 100, 512)); err != nil {
		t.Fatal(err)
	}
	h.grownTo(2, 768)
	processors := limits(200, 0)
	processors.Memory = nil
	if err := s.Update(t.Context(), "c1", processors); err != nil {
		t.Fatal(err)
	}
	if err := s.CreateContainer(t.Context(), h.limited("c2", 0, 512)); err != nil {
		t.Fatal(err)
	}
	h.grownTo(3, 1280)
}
