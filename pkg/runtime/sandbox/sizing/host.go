package sizing

import (
	"fmt"
	"runtime"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Host is what the host has.
func Host() (Machine, error) {
	var info unix.Sysinfo_t
	if err := unix.Sysinfo(&info); err != nil {
		return Machine{}, fmt.Errorf("size of the host's memory: %w", err)
	}
	return Machine{VCPUs: runtime.NumCPU(), MemoryMiB: int(info.Totalram * uint64(info.Unit) >> 20)}, nil
}

// maxVCPUs is Kata's limit for QEMU: more than 255 would take an interrupt controller of another kind.
const maxVCPUs = 240

// Most is what machines may have at most on this host: what the configuration says (0 is all), but never more than there
// is.
func Most(vcpus, memoryMiB int, host Machine) Machine {
	most := Machine{VCPUs: min(host.VCPUs, maxVCPUs), MemoryMiB: host.MemoryMiB}
	if vcpus > 0 {
		most.VCPUs = min(vcpus, most.VCPUs)
	}
	if memoryMiB > 0 {
		most.MemoryMiB = min(memoryMiB, host.MemoryMiB)
	}
	return most
}

// countCPUs counts the processors of a list such as "0-3,7".
func countCPUs(list string) (float64, error) {
	count := 0
	for _, part := range strings.Split(list, ",") {
		if part = strings.TrimSpace(part); part == "" {
			continue
		}
		from, to, isRange := strings.Cut(part, "-")
		if !isRange {
			to = from
		}
		first, err1 := strconv.ParseUint(from, 10, 16)
		last, err2 := strconv.ParseUint(to, 10, 16)
		if err1 != nil || err2 != nil || last < first {
			return 0, fmt.Errorf("processor set %q: %w", list, ErrInvalid)
		}
		count += int(last-first) + 1
	}
	return min(float64(count), maxCPUs), nil
}
