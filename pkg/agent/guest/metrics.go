package guest

import (
	"bufio"
	"fmt"
	"os"
	"runtime"
	"strconv"
	"strings"
	"sync/atomic"
	"unicode"

	"golang.org/x/sys/unix"
)

// ticksPerSecond is what the kernel counts processor time in for programs, on
// every Linux.
const ticksPerSecond = 100

var scrapes atomic.Uint64

// Metrics returns the guest's figures as Prometheus text, under the names, with
// the labels and in the units that Kata's agent gives them. What cannot be read
// is left out.
func Metrics() string {
	var b strings.Builder
	agentMetrics(&b)
	loadMetrics(&b)
	memoryMetrics(&b)
	vmMetrics(&b)
	cpuMetrics(&b)
	netMetrics(&b)
	diskMetrics(&b)
	return b.String()
}

func family(b *strings.Builder, name, kind, help string) {
	fmt.Fprintf(b, "# HELP %s %s\n# TYPE %s %s\n", name, help, name, kind)
}

func agentMetrics(b *strings.Builder) {
	family(b, "kata_agent_scrape_count", "counter", "How often these figures were asked for.")
	fmt.Fprintf(b, "kata_agent_scrape_count %d\n", scrapes.Add(1))
	family(b, "kata_agent_threads", "gauge", "Threads of the agent.")
	fmt.Fprintf(b, "kata_agent_threads %d\n", countEntries("/proc/self/task"))
	total, resident := agentMemory()
	single(b, "kata_agent_total_vm", "gauge", "Virtual memory of the agent in bytes.", total)
	single(b, "kata_agent_total_rss", "gauge", "Resident memory of the agent in bytes.", resident)
	family(b, "kata_agent_goroutines", "gauge", "Goroutines of the agent.")
	fmt.Fprintf(b, "kata_agent_goroutines %d\n", runtime.NumGoroutine())
	agentTimes(b)
	agentProcess(b, total, resident)
	family(b, "kata_agent_io_stat", "gauge", "Input and output of the agent.")
	eachLine("/proc/self/io", func(fields []string) {
		if len(fields) == 2 {
			fmt.Fprintf(b, "kata_agent_io_stat{item=%q} %s\n", strings.TrimSuffix(fields[0], ":"), fields[1])
		}
	})
	family(b, "kata_agent_proc_status", "gauge", "Memory in bytes and context switches of the agent.")
	eachLine("/proc/self/status", statusMetric(b))
}

// agentMemory is how much the agent has, in bytes, and how much of that is in memory.
func agentMemory() (total, resident uint64) {
	data, _ := os.ReadFile("/proc/self/statm")
	_, _ = fmt.Sscan(string(data), &total, &resident)
	page := uint64(os.Getpagesize())
	return total * page, resident * page
}

// agentProcess writes what Prometheus' library tells of a process; Kata's agent
// has it from there.
func agentProcess(b *strings.Builder, total, resident uint64) {
	const prefix = "kata_agent_process_"
	single(b, prefix+"virtual_memory_bytes", "gauge", "Virtual memory of the agent in bytes.", total)
	single(b, prefix+"resident_memory_bytes", "gauge", "Resident memory of the agent in bytes.", resident)
	single(b, prefix+"open_fds", "gauge", "Open files of the agent.", uint64(countEntries("/proc/self/fd")))
	var most unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &most); err == nil {
		single(b, prefix+"max_fds", "gauge", "Files that the agent may have open.", most.Cur)
	}
}

func single(b *strings.Builder, name, kind, help string, value uint64) {
	family(b, name, kind, help)
	fmt.Fprintf(b, "%s %d\n", name, value)
}

// bootTime is when the guest was started, in seconds since 1970.
func bootTime() (seconds float64) {
	eachLine("/proc/stat", func(fields []string) {
		if len(fields) == 2 && fields[0] == "btime" {
			seconds, _ = strconv.ParseFloat(fields[1], 64)
		}
	})
	return seconds
}

// agentTimes reads the agent's processor time, and when it was started.
func agentTimes(b *strings.Builder) {
	data, err := os.ReadFile("/proc/self/stat")
	fields := strings.Fields(string(data[strings.LastIndexByte(string(data), ')')+1:])) // the name may hold anything
	const utime, starttime = 11, 19                                                     // after the name
	if err != nil || len(fields) <= starttime {
		return
	}
	family(b, "kata_agent_proc_stat", "gauge", "Processor time of the agent in clock ticks.")
	total := 0.0
	for i, item := range []string{"utime", "stime", "cutime", "cstime"} {
		fmt.Fprintf(b, "kata_agent_proc_stat{item=%q} %s\n", item, fields[utime+i])
		if ticks, err := strconv.ParseFloat(fields[utime+i], 64); err == nil && i < 2 {
			total += ticks / ticksPerSecond
		}
	}
	family(b, "kata_agent_total_time", "gauge", "Processor time of the agent in seconds.")
	fmt.Fprintf(b, "kata_agent_total_time %g\n", total)
	family(b, "kata_agent_process_cpu_seconds_total", "counter", "Processor time of the agent in seconds.")
	fmt.Fprintf(b, "kata_agent_process_cpu_seconds_total %g\n", total)
	if ticks, err := strconv.ParseFloat(fields[starttime], 64); err == nil {
		family(b, "kata_agent_process_start_time_seconds", "gauge", "When the agent was started, in seconds since 1970.")
		fmt.Fprintf(b, "kata_agent_process_start_time_seconds %.2f\n", bootTime()+ticks/ticksPerSecond)
	}
}

// statusMetric writes the lines of /proc/PID/status that are memory or context
// switches.
func statusMetric(b *strings.Builder) func([]string) {
	return func(fields []string) {
		name := strings.ToLower(strings.TrimSuffix(fields[0], ":"))
		inMemory := strings.HasPrefix(name, "vm") || strings.HasPrefix(name, "rss") || name == "hugetlbpages"
		if len(fields) < 2 || !inMemory && !strings.HasSuffix(name, "ctxt_switches") {
			return
		}
		if value, err := strconv.ParseUint(fields[1], 10, 64); err == nil {
			if len(fields) == 3 {
				value <<= 10 // kB
			}
			fmt.Fprintf(b, "kata_agent_proc_status{item=%q} %d\n", name, value)
		}
	}
}

func countEntries(dir string) int {
	entries, _ := os.ReadDir(dir)
	return len(entries)
}

// loadMetrics reads a line such as "0.00 0.01 0.05 1/80 123".
func loadMetrics(b *strings.Builder) {
	data, err := os.ReadFile("/proc/loadavg")
	fields := strings.Fields(string(data))
	if err != nil || len(fields) < 4 {
		return
	}
	family(b, "kata_guest_load", "gauge", "Load of the guest.")
	for i, item := range []string{"load1", "load5", "load15"} {
		fmt.Fprintf(b, "kata_guest_load{item=%q} %s\n", item, fields[i])
	}
	if current, all, ok := strings.Cut(fields[3], "/"); ok {
		family(b, "kata_guest_tasks", "gauge", "Tasks of the guest that can run, and all.")
		fmt.Fprintf(b, "kata_guest_tasks{item=\"cur\"} %s\nkata_guest_tasks{item=\"max\"} %s\n", current, all)
	}
}

// memoryMetrics reads lines such as "MemTotal:  1234 kB".
func memoryMetrics(b *strings.Builder) {
	family(b, "kata_guest_meminfo", "gauge", "Memory of the guest in bytes.")
	eachLine("/proc/meminfo", func(fields []string) {
		if len(fields) < 2 {
			return
		}
		value, err := strconv.ParseUint(fields[1], 10, 64)
		if err != nil {
			return
		}
		if len(fields) == 3 && fields[2] == "kB" {
			value <<= 10
		}
		fmt.Fprintf(b, "kata_guest_meminfo{item=%q} %d\n", memoryItem(strings.TrimSuffix(fields[0], ":")), value)
	})
}

// memoryItem turns the kernel's name of a kind of memory into Kata's: Active(anon)
// is active_anon, SReclaimable s_reclaimable.
func memoryItem(name string) string {
	switch name {
	case "Percpu":
		return "per_cpu"
	case "VmallocTotal", "VmallocUsed", "VmallocChunk", "Hugepagesize", "Hugetlb":
		name = strings.Replace(name, "Vmalloc", "Vmalloc_", 1)
		return strings.ToLower(name)
	}
	name = strings.NewReplacer("(", "_", ")", "", "HugePages", "Hugepages", "NFS", "Nfs", "AS", "as", "DirectMap", "Direct_map_").Replace(name)
	var b strings.Builder
	var last rune
	for i, r := range name {
		if i > 0 && unicode.IsUpper(r) && last != '_' && !unicode.IsDigit(last) {
			b.WriteByte('_')
		}
		// Only DirectMap4k, 2M and the like keep their letters.
		if unicode.IsDigit(last) {
			b.WriteRune(r)
		} else {
			b.WriteRune(unicode.ToLower(r))
		}
		last = r
	}
	return b.String()
}

// vmMetrics reads lines such as "nr_free_pages 1234".
func vmMetrics(b *strings.Builder) {
	family(b, "kata_guest_vm_stat", "gauge", "Virtual memory of the guest, as the kernel counts it.")
	eachLine("/proc/vmstat", func(fields []string) {
		if len(fields) == 2 {
			fmt.Fprintf(b, "kata_guest_vm_stat{item=%q} %s\n", fields[0], fields[1])
		}
	})
}

func cpuMetrics(b *strings.Builder) {
	family(b, "kata_guest_cpu_time", "gauge", "Time of the guest's processors in milliseconds.")
	items := []string{"user", "nice", "system", "idle", "iowait", "irq", "softirq", "steal", "guest", "guest_nice"}
	eachLine("/proc/stat", func(fields []string) {
		cpu, isCPU := strings.CutPrefix(fields[0], "cpu")
		if !isCPU {
			return
		}
		if cpu == "" {
			cpu = "total"
		}
		for i, value := range fields[1:] {
			if ticks, err := strconv.ParseUint(value, 10, 64); err == nil && i < len(items) {
				fmt.Fprintf(b, "kata_guest_cpu_time{cpu=%q,item=%q} %d\n", cpu, items[i], ticks*1000/ticksPerSecond)
			}
		}
	})
}

func netMetrics(b *strings.Builder) {
	family(b, "kata_guest_netdev_stat", "gauge", "Figures of the guest's network interfaces.")
	items := []string{"recv_bytes", "recv_packets", "recv_errs", "recv_drop", "recv_fifo", "recv_frame", "recv_compressed",
		"recv_multicast", "sent_bytes", "sent_packets", "sent_errs", "sent_drop", "sent_fifo", "sent_colls", "sent_carrier",
		"sent_compressed"}
	eachLine("/proc/net/dev", func(fields []string) {
		name, isInterface := strings.CutSuffix(fields[0], ":")
		if !isInterface {
			return
		}
		for i, value := range fields[1:] {
			if i < len(items) {
				fmt.Fprintf(b, "kata_guest_netdev_stat{interface=%q,item=%q} %s\n", name, items[i], value)
			}
		}
	})
}

func diskMetrics(b *strings.Builder) {
	family(b, "kata_guest_diskstat", "gauge", "Figures of the guest's disks.")
	items := []string{"reads", "merged", "sectors_read", "time_reading", "writes", "writes_merged", "sectors_written",
		"time_writing", "in_progress", "time_in_progress", "weighted_time_in_progress", "discards", "discards_merged",
		"sectors_discarded", "time_discarding", "flushes", "time_flushing"}
	eachLine("/proc/diskstats", func(fields []string) {
		const names = 3 // major, minor, name
		if len(fields) < names {
			return
		}
		for i, value := range fields[names:] {
			if i < len(items) {
				fmt.Fprintf(b, "kata_guest_diskstat{disk=%q,item=%q} %s\n", fields[2], items[i], value)
			}
		}
	})
}

func eachLine(path string, f func(fields []string)) {
	file, err := os.Open(path)
	if err != nil {
		return
	}
	defer file.Close()
	for lines := bufio.NewScanner(file); lines.Scan(); {
		if fields := strings.Fields(lines.Text()); len(fields) > 0 {
			f(fields)
		}
	}
}
