package guest

import (
	"bufio"
	"fmt"
	"os"
	"runtime"
	"strconv"
	"strings"
)

// Metrics returns the guest's figures as Prometheus text, under the names that
// Kata's agent gives them. What cannot be read is left out.
func Metrics() string {
	var b strings.Builder
	agentMetrics(&b)
	loadMetrics(&b)
	memoryMetrics(&b)
	cpuMetrics(&b)
	netMetrics(&b)
	diskMetrics(&b)
	return b.String()
}

func family(b *strings.Builder, name, kind, help string) {
	fmt.Fprintf(b, "# HELP %s %s\n# TYPE %s %s\n", name, help, name, kind)
}

func agentMetrics(b *strings.Builder) {
	family(b, "kata_agent_threads", "gauge", "Threads of the agent.")
	fmt.Fprintf(b, "kata_agent_threads %d\n", countEntries("/proc/self/task"))
	family(b, "kata_agent_total_vm", "gauge", "Virtual memory of the agent in bytes.")
	family(b, "kata_agent_total_rss", "gauge", "Resident memory of the agent in bytes.")
	var total, resident uint64
	if data, err := os.ReadFile("/proc/self/statm"); err == nil {
		if _, err := fmt.Sscan(string(data), &total, &resident); err == nil {
			page := uint64(os.Getpagesize())
			fmt.Fprintf(b, "kata_agent_total_vm %d\nkata_agent_total_rss %d\n", total*page, resident*page)
		}
	}
	family(b, "kata_agent_goroutines", "gauge", "Goroutines of the agent.")
	fmt.Fprintf(b, "kata_agent_goroutines %d\n", runtime.NumGoroutine())
}

func countEntries(dir string) int {
	entries, _ := os.ReadDir(dir)
	return len(entries)
}

func loadMetrics(b *strings.Builder) {
	data, err := os.ReadFile("/proc/loadavg")
	fields := strings.Fields(string(data))
	if err != nil || len(fields) < 3 {
		return
	}
	family(b, "kata_guest_load", "gauge", "Load of the guest.")
	for i, item := range []string{"load1", "load5", "load15"} {
		fmt.Fprintf(b, "kata_guest_load{item=%q} %s\n", item, fields[i])
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
		name := strings.NewReplacer("(", "_", ")", "", ":", "").Replace(fields[0])
		fmt.Fprintf(b, "kata_guest_meminfo{item=%q} %d\n", strings.ToLower(name), value)
	})
}

func cpuMetrics(b *strings.Builder) {
	family(b, "kata_guest_cpu_time", "gauge", "Time of the guest's processors in clock ticks.")
	items := []string{"user", "nice", "system", "idle", "iowait", "irq", "softirq", "steal", "guest", "guest_nice"}
	eachLine("/proc/stat", func(fields []string) {
		if !strings.HasPrefix(fields[0], "cpu") {
			return
		}
		cpu := fields[0]
		if cpu == "cpu" {
			cpu = "total"
		}
		for i, value := range fields[1:] {
			if i < len(items) {
				fmt.Fprintf(b, "kata_guest_cpu_time{cpu=%q,item=%q} %s\n", cpu, items[i], value)
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
		"time_writing", "in_progress", "time_in_progress", "weighted_time_in_progress"}
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
