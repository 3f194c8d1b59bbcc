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

// growth is what is plugged into a machine beside disks. What is in it already, QEMU is asked: a command whose answer did
// not come in time may have been carried out.
type growth struct {
	mu    sync.Mutex // held for as long as one is at it
	tries int        // to plug in memory; each has ids of its own, which a failed one may keep
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
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), commandTimeout)
	defer cancel()
	nowMiB, err = m.growth.memory(ctx, run.qmp, m.cfg, totalMiB)
	return nowMiB, m.explain(err)
}

// memory is GrowMemory with mu held.
func (g *growth) memory(ctx context.Context, client *qmp.Client, c Config, totalMiB int) (nowMiB int, err error) {
	modules, plugged, err := pluggedMemory(ctx, client)
	if err != nil {
		return c.MemoryMiB, err
	}
	nowMiB = c.MemoryMiB + plugged
	if totalMiB <= nowMiB {
		return nowMiB, nil
	}
	const step = vm.MemoryStepMiB
	add := (totalMiB - nowMiB + step - 1) / step * step
	switch {
	case nowMiB+add > c.mostMemoryMiB():
		return nowMiB, fmt.Errorf("%w: it can have %d MiB (default_maxmemory)", vm.ErrLimit, max(c.mostMemoryMiB(), c.MemoryMiB))
	case modules >= c.MemorySlots:
		return nowMiB, fmt.Errorf("%w: memory was plugged in %d times (memory_slots)", vm.ErrLimit, modules)
	}
	number := g.tries
	g.tries++
	if err := plugMemory(ctx, client, number, add); err != nil {
		return nowMiB, err
	}
	return nowMiB + add, nil
}

// pluggedMemory asks how many modules of memory there are, and how much is in them.
func pluggedMemory(ctx context.Context, client *qmp.Client) (modules, totalMiB int, err error) {
	var devices []struct {
		Data struct {
			Size int64 `json:"size"`
		} `json:"data"`
	}
	if err := client.Run(ctx, "query-memory-devices", nil, &devices); err != nil {
		return 0, 0, err
	}
	for _, d := range devices {
		totalMiB += int(d.Data.Size >> 20)
	}
	return len(devices), totalMiB, nil
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
