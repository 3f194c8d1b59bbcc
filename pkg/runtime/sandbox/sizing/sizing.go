// Package sizing computes how large a pod's machine has to be: what the configuration gives every machine, and on top
// of it what the containers may use, as in Kata. The sandbox asks it before the machine boots and with each container,
// and does the plugging itself; nothing here touches a machine.
//
// What a pod asks for comes from people. It is checked here, so that no number of theirs reaches the hypervisor that
// the host could not stand.
package sizing

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"strconv"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// ErrTooLarge is returned for a pod that may use more memory than its machine can have.
var ErrTooLarge = errors.New("the pod may use more memory than a machine can have here")

// ErrInvalid is returned for amounts that mean nothing.
var ErrInvalid = errors.New("not an amount")

// Size is an amount of processors and memory. CPUs are whole processors and parts of one.
type Size struct {
	CPUs        float64
	MemoryBytes int64
}

// Add returns both together.
func (s Size) Add(o Size) Size { return Size{s.CPUs + o.CPUs, s.MemoryBytes + o.MemoryBytes} }

// Machine is what a machine has.
type Machine struct{ VCPUs, MemoryMiB int }

// Limits are how large a machine may be made.
type Limits struct {
	// Base is what it has before anything runs in it (default_vcpus, default_memory).
	Base Machine
	// Most is what it may have in the end (default_maxvcpus, default_maxmemory, or what the host has).
	Most Machine
	// StepMiB is the unit in which memory is added to the base, where it is plugged in; 0 or 1 if it comes with the boot.
	StepMiB int
}

// For returns the machine for a workload. Processors are bounded by the most there can be: the workload gets all of
// them, and no host could give it more. Memory is not, because a workload that counts on memory dies without it.
func (l Limits) For(workload Size) (Machine, error) {
	step := max(int64(l.StepMiB), 1)
	m := Machine{
		VCPUs:     min(int(math.Ceil(float64(l.Base.VCPUs)+workload.CPUs)), max(l.Most.VCPUs, l.Base.VCPUs)),
		MemoryMiB: l.Base.MemoryMiB + int(steps(workload.MemoryBytes, step<<20)*step),
	}
	if most := max(l.Most.MemoryMiB, l.Base.MemoryMiB); m.MemoryMiB > most {
		return m, fmt.Errorf("%w: %d MiB for its containers, added in steps of %d MiB, and %d MiB for the machine are "+
			"above %d MiB (default_maxmemory, or the host's memory)", ErrTooLarge, steps(workload.MemoryBytes, 1<<20), step,
			l.Base.MemoryMiB, most)
	}
	return m, nil
}

// steps is how many of them it takes.
func steps(amount, step int64) int64 { return (amount + step - 1) / step }

// maxBytes and maxCPUs keep sums of many containers far from an overflow.
const (
	maxBytes = 1 << 50
	maxCPUs  = 1 << 16
)

// size checks what came from outside. A quota of 0 or -1, and a limit of 0 or -1, mean none.
func size(quota int64, period uint64, memory int64) (Size, error) {
	var s Size
	switch {
	case quota < -1:
		return s, fmt.Errorf("processor quota %d: %w", quota, ErrInvalid)
	case memory < -1:
		return s, fmt.Errorf("memory limit %d: %w", memory, ErrInvalid)
	case memory > maxBytes:
		return s, fmt.Errorf("%w: %d bytes", ErrTooLarge, memory)
	}
	if quota > 0 && period > 0 {
		s.CPUs = min(float64(quota)/float64(period), maxCPUs)
	}
	s.MemoryBytes = max(memory, 0)
	return s, nil
}

// OfContainer is what a container may use, by its own limits. Pages of memory that it may have beside the limit count,
// and so does a set of processors where there is no quota.
func OfContainer(r *specs.LinuxResources) (Size, error) {
	if r == nil {
		return Size{}, nil
	}
	var quota, memory int64
	var period uint64
	if r.CPU != nil {
		quota, period = value(r.CPU.Quota), value(r.CPU.Period)
	}
	if r.Memory != nil {
		memory = value(r.Memory.Limit)
	}
	s, err := size(quota, period, memory)
	if err != nil {
		return s, err
	}
	for _, limit := range r.HugepageLimits {
		if limit.Limit > uint64(maxBytes-s.MemoryBytes) {
			return s, fmt.Errorf("%w: %d bytes in pages of %s", ErrTooLarge, limit.Limit, limit.Pagesize)
		}
		s.MemoryBytes += int64(limit.Limit)
	}
	if s.CPUs == 0 && r.CPU != nil {
		s.CPUs, err = countCPUs(r.CPU.Cpus)
	}
	return s, err
}

func value[T any](p *T) (v T) {
	if p != nil {
		v = *p
	}
	return v
}

// Annotations by which a runtime says what all containers of a pod together may use.
const (
	containerdQuota  = "io.kubernetes.cri.sandbox-cpu-quota"
	containerdPeriod = "io.kubernetes.cri.sandbox-cpu-period"
	containerdMemory = "io.kubernetes.cri.sandbox-memory"
	crioResources    = "pod-linux-resources.crio.io"
	crioResourcesOld = "io.kubernetes.cri-o.PodLinuxResources"
)

// OfPod is what the pod's containers together may use, as the runtime has noted it on the sandbox. Zero where it says
// nothing.
func OfPod(annotations map[string]string) (Size, error) {
	for _, key := range []string{crioResources, crioResourcesOld} {
		if text, ok := annotations[key]; ok {
			return ofCRIO(key, text)
		}
	}
	quota, err := number(annotations, containerdQuota)
	if err != nil {
		return Size{}, err
	}
	period, err := number(annotations, containerdPeriod)
	if err != nil {
		return Size{}, err
	}
	memory, err := number(annotations, containerdMemory)
	if err != nil {
		return Size{}, err
	}
	return size(quota, uint64(max(period, 0)), memory)
}

func number(annotations map[string]string, key string) (int64, error) {
	text, ok := annotations[key]
	if !ok {
		return 0, nil
	}
	n, err := strconv.ParseInt(text, 10, 64)
	if err != nil {
		return 0, fmt.Errorf("annotation %s = %q: %w", key, text, ErrInvalid)
	}
	return n, nil
}

// ofCRIO reads the CRI's LinuxContainerResources in JSON.
func ofCRIO(key, text string) (Size, error) {
	var r struct {
		Period uint64 `json:"cpu_period"`
		Quota  int64  `json:"cpu_quota"`
		Memory int64  `json:"memory_limit_in_bytes"`
	}
	if err := json.Unmarshal([]byte(text), &r); err != nil {
		return Size{}, fmt.Errorf("annotation %s: %w: %w", key, ErrInvalid, err)
	}
	return size(r.Quota, r.Period, r.Memory)
}
