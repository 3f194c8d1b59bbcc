package sizing

import "github.com/opencontainers/runtime-spec/specs-go"

// Update is a container's limits after a change, as far as they count here. What the change does not name stays as it
// was: whoever gives a container other processors has not taken its memory away.
func Update(limits, change *specs.LinuxResources) *specs.LinuxResources {
	now := &specs.LinuxResources{CPU: &specs.LinuxCPU{}, Memory: &specs.LinuxMemory{}}
	for _, r := range []*specs.LinuxResources{limits, change} {
		if r == nil {
			continue
		}
		if r.CPU != nil {
			now.CPU.Quota, now.CPU.Period = named(r.CPU.Quota, now.CPU.Quota), named(r.CPU.Period, now.CPU.Period)
			if r.CPU.Cpus != "" {
				now.CPU.Cpus = r.CPU.Cpus
			}
		}
		if r.Memory != nil {
			now.Memory.Limit = named(r.Memory.Limit, now.Memory.Limit)
		}
		if len(r.HugepageLimits) > 0 {
			now.HugepageLimits = r.HugepageLimits
		}
	}
	return now
}

func named[T any](p, otherwise *T) *T {
	if p == nil {
		return otherwise
	}
	return p
}
