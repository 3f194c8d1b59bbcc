package agentproto

import (
	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// ResourcesToProto converts cgroup settings, such as those an Update carries.
// nil gives nil.
func ResourcesToProto(r *specs.LinuxResources) *LinuxResources {
	if r == nil {
		return nil
	}
	out := &LinuxResources{
		Devices: convert(r.Devices, func(d specs.LinuxDeviceCgroup) *LinuxDeviceCgroup {
			return &LinuxDeviceCgroup{Allow: d.Allow, Type: d.Type, Major: d.Major, Minor: d.Minor, Access: d.Access}
		}),
		BlockIO: blockIOToProto(r.BlockIO),
		HugepageLimits: convert(r.HugepageLimits, func(h specs.LinuxHugepageLimit) *LinuxHugepageLimit {
			return &LinuxHugepageLimit{Pagesize: h.Pagesize, Limit: h.Limit}
		}),
	}
	if m := r.Memory; m != nil {
		out.Memory = &LinuxMemory{
			Limit:       m.Limit,
			Reservation: m.Reservation,
			Swap:        m.Swap,
			//lint:ignore SA1019 deprecated, and still in use
			Kernel:           m.Kernel,
			KernelTCP:        m.KernelTCP,
			Swappiness:       m.Swappiness,
			DisableOOMKiller: m.DisableOOMKiller,
		}
	}
	if c := r.CPU; c != nil {
		out.CPU = &LinuxCPU{
			Shares:          c.Shares,
			Quota:           c.Quota,
			Period:          c.Period,
			RealtimeRuntime: c.RealtimeRuntime,
			RealtimePeriod:  c.RealtimePeriod,
			Cpus:            c.Cpus,
			Mems:            c.Mems,
		}
	}
	if r.Pids != nil {
		out.Pids = &LinuxPids{Limit: r.Pids.Limit}
	}
	if n := r.Network; n != nil {
		out.Network = &LinuxNetwork{
			ClassID: n.ClassID,
			Priorities: convert(n.Priorities, func(p specs.LinuxInterfacePriority) *LinuxInterfacePriority {
				return &LinuxInterfacePriority{Name: p.Name, Priority: p.Priority}
			}),
		}
	}
	return out
}

// ResourcesFromProto is the inverse of ResourcesToProto. nil gives nil.
func ResourcesFromProto(r *LinuxResources) *specs.LinuxResources {
	if r == nil {
		return nil
	}
	out := &specs.LinuxResources{
		Devices: convert(r.Devices, func(d *LinuxDeviceCgroup) specs.LinuxDeviceCgroup {
			return specs.LinuxDeviceCgroup{Allow: d.Allow, Type: d.Type, Major: d.Major, Minor: d.Minor, Access: d.Access}
		}),
		BlockIO: blockIOFromProto(r.BlockIO),
		HugepageLimits: convert(r.HugepageLimits, func(h *LinuxHugepageLimit) specs.LinuxHugepageLimit {
			return specs.LinuxHugepageLimit{Pagesize: h.Pagesize, Limit: h.Limit}
		}),
	}
	if m := r.Memory; m != nil {
		out.Memory = &specs.LinuxMemory{
			Limit:       m.Limit,
			Reservation: m.Reservation,
			Swap:        m.Swap,
			//lint:ignore SA1019 deprecated, and still in use
			Kernel:           m.Kernel,
			KernelTCP:        m.KernelTCP,
			Swappiness:       m.Swappiness,
			DisableOOMKiller: m.DisableOOMKiller,
		}
	}
	if c := r.CPU; c != nil {
		out.CPU = &specs.LinuxCPU{
			Shares:          c.Shares,
			Quota:           c.Quota,
			Period:          c.Period,
			RealtimeRuntime: c.RealtimeRuntime,
			RealtimePeriod:  c.RealtimePeriod,
			Cpus:            c.Cpus,
			Mems:            c.Mems,
		}
	}
	if r.Pids != nil {
		out.Pids = &specs.LinuxPids{Limit: r.Pids.Limit}
	}
	if n := r.Network; n != nil {
		out.Network = &specs.LinuxNetwork{
			ClassID: n.ClassID,
			Priorities: convert(n.Priorities, func(p *LinuxInterfacePriority) specs.LinuxInterfacePriority {
				return specs.LinuxInterfacePriority{Name: p.Name, Priority: p.Priority}
			}),
		}
	}
	return out
}

func blockIOToProto(b *specs.LinuxBlockIO) *LinuxBlockIO {
	if b == nil {
		return nil
	}
	throttle := func(t specs.LinuxThrottleDevice) *LinuxThrottleDevice {
		return &LinuxThrottleDevice{Major: t.Major, Minor: t.Minor, Rate: t.Rate}
	}
	return &LinuxBlockIO{
		Weight:     number[uint32](b.Weight),
		LeafWeight: number[uint32](b.LeafWeight),
		WeightDevice: convert(b.WeightDevice, func(w specs.LinuxWeightDevice) *LinuxWeightDevice {
			return &LinuxWeightDevice{
				Major: w.Major, Minor: w.Minor,
				Weight: number[uint32](w.Weight), LeafWeight: number[uint32](w.LeafWeight),
			}
		}),
		ThrottleReadBpsDevice:   convert(b.ThrottleReadBpsDevice, throttle),
		ThrottleWriteBpsDevice:  convert(b.ThrottleWriteBpsDevice, throttle),
		ThrottleReadIOPSDevice:  convert(b.ThrottleReadIOPSDevice, throttle),
		ThrottleWriteIOPSDevice: convert(b.ThrottleWriteIOPSDevice, throttle),
	}
}

func blockIOFromProto(b *LinuxBlockIO) *specs.LinuxBlockIO {
	if b == nil {
		return nil
	}
	throttle := func(t *LinuxThrottleDevice) specs.LinuxThrottleDevice {
		return specs.LinuxThrottleDevice{
			LinuxBlockIODevice: specs.LinuxBlockIODevice{Major: t.Major, Minor: t.Minor}, Rate: t.Rate,
		}
	}
	return &specs.LinuxBlockIO{
		Weight:     number[uint16](b.Weight),
		LeafWeight: number[uint16](b.LeafWeight),
		WeightDevice: convert(b.WeightDevice, func(w *LinuxWeightDevice) specs.LinuxWeightDevice {
			return specs.LinuxWeightDevice{
				LinuxBlockIODevice: specs.LinuxBlockIODevice{Major: w.Major, Minor: w.Minor},
				Weight:             number[uint16](w.Weight), LeafWeight: number[uint16](w.LeafWeight),
			}
		}),
		ThrottleReadBpsDevice:   convert(b.ThrottleReadBpsDevice, throttle),
		ThrottleWriteBpsDevice:  convert(b.ThrottleWriteBpsDevice, throttle),
		ThrottleReadIOPSDevice:  convert(b.ThrottleReadIOPSDevice, throttle),
		ThrottleWriteIOPSDevice: convert(b.ThrottleWriteIOPSDevice, throttle),
	}
}
