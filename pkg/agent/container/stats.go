package container

import (
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/katadirect/katadirect/pkg/agentproto"
)

// Stats reads the cgroup's figures, in the protocol's form, which is cgroup
// v1's. A figure that the kernel does not keep is zero.
func (c *Container) Stats() (*agentproto.CgroupStats, error) {
	dir := c.runtime.cgroup(c.ID)
	if _, err := os.Stat(dir); err != nil {
		return nil, fmt.Errorf("figures of container %s: %w", c.ID, err)
	}
	return &agentproto.CgroupStats{
		CpuStats:     cpuStats(dir),
		MemoryStats:  memoryStats(dir),
		PidsStats:    &agentproto.PidsStats{Current: readNumber(dir, "pids.current"), Limit: readLimit(dir, "pids.max")},
		BlkioStats:   blkioStats(dir),
		HugetlbStats: hugetlbStats(dir),
	}, nil
}

func cpuStats(dir string) *agentproto.CpuStats {
	const nanosecondsPerMicrosecond = 1000
	stat := readKeyed(dir, "cpu.stat")
	return &agentproto.CpuStats{
		CpuUsage: &agentproto.CpuUsage{
			TotalUsage:        stat["usage_usec"] * nanosecondsPerMicrosecond,
			UsageInKernelmode: stat["system_usec"] * nanosecondsPerMicrosecond,
			UsageInUsermode:   stat["user_usec"] * nanosecondsPerMicrosecond,
		},
		ThrottlingData: &agentproto.ThrottlingData{
			Periods:          stat["nr_periods"],
			ThrottledPeriods: stat["nr_throttled"],
			ThrottledTime:    stat["throttled_usec"] * nanosecondsPerMicrosecond,
		},
	}
}

func memoryStats(dir string) *agentproto.MemoryStats {
	stat := readKeyed(dir, "memory.stat")
	return &agentproto.MemoryStats{
		Cache: stat["file"],
		Usage: &agentproto.MemoryData{
			Usage:    readNumber(dir, "memory.current"),
			MaxUsage: readNumber(dir, "memory.peak"),
			Failcnt:  readKeyed(dir, "memory.events")["max"],
			Limit:    readLimit(dir, "memory.max"),
		},
		SwapUsage: &agentproto.MemoryData{
			Usage:   readNumber(dir, "memory.swap.current"),
			Failcnt: readKeyed(dir, "memory.swap.events")["max"],
			Limit:   readLimit(dir, "memory.swap.max"),
		},
		KernelUsage:  &agentproto.MemoryData{Usage: stat["kernel"]},
		UseHierarchy: true,
		Stats:        stat,
	}
}

// blkioStats reads lines of the form "254:0 rbytes=1 wbytes=2 rios=3 wios=4".
func blkioStats(dir string) *agentproto.BlkioStats {
	stats := &agentproto.BlkioStats{}
	for _, line := range readLines(dir, "io.stat") {
		fields := strings.Fields(line)
		if len(fields) == 0 {
			continue
		}
		var major, minor uint64
		if _, err := fmt.Sscanf(fields[0], "%d:%d", &major, &minor); err != nil {
			continue
		}
		add := func(list *[]*agentproto.BlkioStatsEntry, op string, value uint64) {
			*list = append(*list, &agentproto.BlkioStatsEntry{Major: major, Minor: minor, Op: op, Value: value})
		}
		for _, field := range fields[1:] {
			key, text, _ := strings.Cut(field, "=")
			value, _ := strconv.ParseUint(text, 10, 64)
			switch key {
			case "rbytes":
				add(&stats.IoServiceBytesRecursive, "Read", value)
			case "wbytes":
				add(&stats.IoServiceBytesRecursive, "Write", value)
			case "dbytes":
				add(&stats.IoServiceBytesRecursive, "Discard", value)
			case "rios":
				add(&stats.IoServicedRecursive, "Read", value)
			case "wios":
				add(&stats.IoServicedRecursive, "Write", value)
			case "dios":
				add(&stats.IoServicedRecursive, "Discard", value)
			}
		}
	}
	return stats
}

// hugetlbStats reads files such as hugetlb.2MB.current.
func hugetlbStats(dir string) map[string]*agentproto.HugetlbStats {
	stats := make(map[string]*agentproto.HugetlbStats)
	files, _ := filepath.Glob(filepath.Join(dir, "hugetlb.*.current"))
	for _, file := range files {
		size := strings.Split(filepath.Base(file), ".")[1]
		stats[size] = &agentproto.HugetlbStats{
			Usage:   readNumber(dir, filepath.Base(file)),
			Failcnt: readKeyed(dir, "hugetlb."+size+".events")["max"],
		}
	}
	return stats
}

func readLines(dir, file string) []string {
	data, err := os.ReadFile(filepath.Join(dir, file))
	if err != nil {
		return nil
	}
	return strings.Split(strings.TrimSpace(string(data)), "\n")
}

// readKeyed reads lines of a name and a number.
func readKeyed(dir, file string) map[string]uint64 {
	values := make(map[string]uint64)
	for _, line := range readLines(dir, file) {
		key, text, _ := strings.Cut(line, " ")
		if value, err := strconv.ParseUint(text, 10, 64); err == nil {
			values[key] = value
		}
	}
	return values
}

func readNumber(dir, file string) uint64 {
	data, err := os.ReadFile(filepath.Join(dir, file))
	if err != nil {
		return 0
	}
	value, _ := strconv.ParseUint(strings.TrimSpace(string(data)), 10, 64)
	return value
}

// readLimit reads a limit; "max" is none, the largest number.
func readLimit(dir, file string) uint64 {
	data, err := os.ReadFile(filepath.Join(dir, file))
	if err == nil && strings.TrimSpace(string(data)) == "max" {
		return math.MaxUint64
	}
	return readNumber(dir, file)
}
