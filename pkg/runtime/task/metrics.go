package task

import (
	"cmp"
	"maps"
	"slices"
	"time"

	"github.com/containerd/cgroups/v3/cgroup2/stats"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/katadirect/katadirect/pkg/agentproto"
)

// metrics puts what the agent measured, whose form is that of cgroup version 1, into version 2's message. All
// containerds read it.
func metrics(s *agentproto.StatsContainerResponse) (*anypb.Any, error) {
	group := s.GetCgroupStats()
	usage, throttling := group.GetCpuStats().GetCpuUsage(), group.GetCpuStats().GetThrottlingData()
	m := &stats.Metrics{
		Pids: &stats.PidsStat{Current: group.GetPidsStats().GetCurrent(), Limit: group.GetPidsStats().GetLimit()},
		CPU: &stats.CPUStat{
			UsageUsec:     microseconds(usage.GetTotalUsage()),
			UserUsec:      microseconds(usage.GetUsageInUsermode()),
			SystemUsec:    microseconds(usage.GetUsageInKernelmode()),
			NrPeriods:     throttling.GetPeriods(),
			NrThrottled:   throttling.GetThrottledPeriods(),
			ThrottledUsec: microseconds(throttling.GetThrottledTime()),
		},
		Memory:  memory(group.GetMemoryStats()),
		Io:      &stats.IOStat{Usage: diskUsage(group.GetBlkioStats())},
		Hugetlb: hugePages(group.GetHugetlbStats()),
	}
	value, err := proto.Marshal(m)
	if err != nil {
		return nil, err
	}
	return &anypb.Any{TypeUrl: string(m.ProtoReflect().Descriptor().FullName()), Value: value}, nil
}

func microseconds(ns uint64) uint64 { return ns / uint64(time.Microsecond) }

// memory takes over the kernel's own counters by their names, which are those of the message's fields.
func memory(in *agentproto.MemoryStats) *stats.MemoryStat {
	out := new(stats.MemoryStat)
	fields := out.ProtoReflect()
	for name, value := range in.GetStats() {
		field := fields.Descriptor().Fields().ByName(protoreflect.Name(name))
		if field != nil && field.Kind() == protoreflect.Uint64Kind && !field.IsList() {
			fields.Set(field, protoreflect.ValueOfUint64(value))
		}
	}
	// Names of a guest with cgroup version 1.
	out.InactiveFile = cmp.Or(out.InactiveFile, in.GetStats()["total_inactive_file"])
	out.Anon = cmp.Or(out.Anon, in.GetStats()["total_rss"])
	out.File = cmp.Or(out.File, in.GetCache())

	out.Usage, out.UsageLimit = in.GetUsage().GetUsage(), in.GetUsage().GetLimit()
	out.MaxUsage = in.GetUsage().GetMaxUsage()
	out.SwapUsage, out.SwapLimit = in.GetSwapUsage().GetUsage(), in.GetSwapUsage().GetLimit()
	return out
}

// hugePages are in the order of their sizes' names. Of the limit the agent's message has nothing.
func hugePages(in map[string]*agentproto.HugetlbStats) []*stats.HugeTlbStat {
	var out []*stats.HugeTlbStat
	for _, size := range slices.Sorted(maps.Keys(in)) {
		out = append(out, &stats.HugeTlbStat{Pagesize: size, Current: in[size].GetUsage(), Failcnt: in[size].GetFailcnt()})
	}
	return out
}

type device struct{ major, minor uint64 }

// diskUsage puts version 1's lists of operations together by device.
func diskUsage(in *agentproto.BlkioStats) []*stats.IOEntry {
	var out []*stats.IOEntry
	byDevice := make(map[device]*stats.IOEntry)
	entry := func(e *agentproto.BlkioStatsEntry) *stats.IOEntry {
		key := device{e.GetMajor(), e.GetMinor()}
		if byDevice[key] == nil {
			byDevice[key] = &stats.IOEntry{Major: key.major, Minor: key.minor}
			out = append(out, byDevice[key])
		}
		return byDevice[key]
	}
	for _, e := range in.GetIoServiceBytesRecursive() {
		switch e.GetOp() {
		case "Read", "read":
			entry(e).Rbytes = e.GetValue()
		case "Write", "write":
			entry(e).Wbytes = e.GetValue()
		}
	}
	for _, e := range in.GetIoServicedRecursive() {
		switch e.GetOp() {
		case "Read", "read":
			entry(e).Rios = e.GetValue()
		case "Write", "write":
			entry(e).Wios = e.GetValue()
		}
	}
	return out
}
