package qemu

import (
	"context"
	"fmt"
	"strconv"
	"sync"

	"github.com/katadirect/katadirect/internal/rollback"
	"github.com/katadirect/katadirect/pkg/runtime/qmp"
	"github.com/katadirect/katadirect/pkg/runtime/vm"
)

// memoryStepMiB is the unit in which a guest on x86 takes plugged memory: one block of Linux' sparse memory model.
const memoryStepMiB = 128

// growth is what was plugged into a machine beside disks.
type growth struct {
	mu      sync.Mutex // held for as long as one is at it
	modules int        // of memory
	addMiB  int        // in them
}

func (c Config) growsVCPUs() bool  { return c.MaxVCPUs > c.VCPUs }
func (c Config) growsMemory() bool { return c.mostMemoryMiB() > c.MemoryMiB }

// maxEmulatedMiB is half of what an emulated processor can address; the rest is for the devices.
const maxEmulatedMiB = 512 << 10

// mostMemoryMiB is how much memory the machine can have in the end.
func (c Config) mostMemoryMiB() int {
	if c.Accel != AccelKVM {
		return min(c.MaxMemoryMiB, maxEmulatedMiB)
	}
	return c.MaxMemoryMiB
}

// processors is the -smp of the machine. Each processor that can come is a socket of its own.
func (c Config) processors() string {
	if !c.growsVCPUs() {
		return strconv.Itoa(c.VCPUs)
	}
	return fmt.Sprintf("%d,maxcpus=%d,sockets=%d,cores=1,threads=1", c.VCPUs, c.MaxVCPUs, c.MaxVCPUs)
}

// memorySize is the -m of the machine.
func (c Config) memorySize() string {
	if !c.growsMemory() {
		return strconv.Itoa(c.MemoryMiB)
	}
	return fmt.Sprintf("%d,slots=%d,maxmem=%dM", c.MemoryMiB, c.MemorySlots, c.mostMemoryMiB())
}

// GrowVCPUs implements vm.Machine.
func (m *Machine) GrowVCPUs(ctx context.Context, total int) (plugged int, err error) {
	defer wrap(&err, "give the machine %d processors", total)
	run, err := m.control()
	if err != nil {
		return 0, err
	}
	m.growth.mu.Lock()
	defer m.growth.mu.Unlock()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), commandTimeout)
	defer cancel()
	places, err := processorPlaces(ctx, run.qmp)
	if err != nil {
		return 0, m.explain(err)
	}
	var free []processorPlace
	for _, p := range places {
		if p.Path == "" {
			free = append(free, p)
		}
	}
	missing := total - (len(places) - len(free))
	if missing > len(free) {
		return 0, fmt.Errorf("%w: it can have %d (default_maxvcpus)", vm.ErrLimit, len(places))
	}
	// QEMU lists the highest number first, and the guest should get the lowest.
	for i := len(free) - 1; plugged < missing; i-- {
		if err := run.qmp.Run(ctx, "device_add", free[i].device(), nil); err != nil {
			return plugged, m.explain(err)
		}
		plugged++
	}
	return plugged, nil
}

// processorPlace is one entry of query-hotpluggable-cpus.
type processorPlace struct {
	Type  string         `json:"type"`
	Props map[string]any `json:"props"`
	Path  string         `json:"qom-path"` // empty as long as there is no processor in it
}

func processorPlaces(ctx context.Context, client *qmp.Client) (places []processorPlace, err error) {
	err = client.Run(ctx, "query-hotpluggable-cpus", nil, &places)
	return places, err
}

func (p processorPlace) device() map[string]any {
	device := map[string]any{"driver": p.Type, "id": fmt.Sprintf("cpu-%v", p.Props["socket-id"])}
	for key, value := range p.Props {
		device[key] = value
	}
	return device
}

// GrowMemory implements vm.Machine.
func (m *Machine) GrowMemory(ctx context.Context, totalMiB int) (nowMiB int, err error) {
	defer wrap(&err, "give the machine %d MiB of memory", totalMiB)
	run, err := m.control()
	if err != nil {
		return 0, err
	}
	m.growth.mu.Lock()
	defer m.growth.mu.Unlock()
	nowMiB = m.cfg.MemoryMiB + m.growth.addMiB
	if totalMiB <= nowMiB {
		return nowMiB, nil
	}
	add := (totalMiB - nowMiB + memoryStepMiB - 1) / memoryStepMiB * memoryStepMiB
	switch {
	case nowMiB+add > m.cfg.mostMemoryMiB():
		return nowMiB, fmt.Errorf("%w: it can have %d MiB (default_maxmemory)", vm.ErrLimit, max(m.cfg.mostMemoryMiB(), m.cfg.MemoryMiB))
	case m.growth.modules == m.cfg.MemorySlots:
		return nowMiB, fmt.Errorf("%w: memory was plugged in %d times (memory_slots)", vm.ErrLimit, m.growth.modules)
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), commandTimeout)
	defer cancel()
	if err := plugMemory(ctx, run.qmp, m.growth.modules, add); err != nil {
		return nowMiB, m.explain(err)
	}
	m.growth.modules++
	m.growth.addMiB += add
	return nowMiB + add, nil
}

// plugMemory makes a module of memory that, like the machine's first, is a file which virtiofsd can map.
func plugMemory(ctx context.Context, client *qmp.Client, number, sizeMiB int) (err error) {
	var undo rollback.Stack
	defer undo.OnError(ctx, &err)
	id := fmt.Sprintf("memory-%d", number)
	err = client.Run(ctx, "object-add", map[string]any{
		"qom-type": "memory-backend-memfd", "id": id, "size": int64(sizeMiB) << 20, "share": true,
	}, nil)
	if err != nil {
		return err
	}
	undo.Push("remove the memory", func(ctx context.Context) error {
		return client.Run(ctx, "object-del", map[string]any{"id": id}, nil)
	})
	return client.Run(ctx, "device_add", map[string]any{"driver": "pc-dimm", "id": "dimm-" + strconv.Itoa(number), "memdev": id}, nil)
}
