package management

import (
	"io"
	"os"
	"strconv"
	"strings"
)

// statusItems are the lines of /proc/PID/status that Kata tells, under its names.
var statusItems = []string{
	"hugetlbpages", "nonvoluntary_ctxt_switches", "rssanon", "rssfile", "rssshmem", "vmdata", "vmexe", "vmhwm", "vmlck",
	"vmlib", "vmpeak", "vmpin", "vmpmd", "vmpte", "vmrss", "vmsize", "vmstk", "vmswap", "voluntary_ctxt_switches",
}

// process writes what proc(5) says of a process, in Kata's families. Of one that is gone it writes nothing.
func (e *exposition) process(prefix, whose string, pid int) {
	status := readStatus(pid)
	if len(status) == 0 {
		return
	}
	e.single(prefix+"_threads", "Threads of "+whose+".", gauge, float64(status["threads"]))
	if files, err := os.ReadDir(procOf(pid) + "/fd"); err == nil {
		e.single(prefix+"_fds", "Open files of "+whose+".", gauge, float64(len(files)))
	}
	e.family(prefix+"_proc_status", "Memory in bytes and context switches of "+whose+".", gauge)
	for _, item := range statusItems {
		e.sample(prefix+"_proc_status", float64(status[item]), "item", item)
	}
	if times := readTimes(pid); len(times) > 0 {
		e.family(prefix+"_proc_stat", "Processor time of "+whose+" in clock ticks.", gauge)
		for i, item := range []string{"utime", "stime", "cutime", "cstime"} {
			e.sample(prefix+"_proc_stat", times[i], "item", item)
		}
	}
	if counts := readCounts(procOf(pid) + "/io"); len(counts) > 0 {
		e.family(prefix+"_io_stat", "Input and output of "+whose+".", gauge)
		for _, item := range []string{"rchar", "wchar", "syscr", "syscw", "read_bytes", "write_bytes", "cancelled_write_bytes"} {
			e.sample(prefix+"_io_stat", float64(counts[item]), "item", strings.ReplaceAll(item, "_", ""))
		}
	}
}

// netItems are the columns of /proc/net/dev in Kata's words.
var netItems = []string{
	"recv_bytes", "recv_packets", "recv_errs", "recv_drop", "recv_fifo", "recv_frame", "recv_compressed", "recv_multicast",
	"sent_bytes", "sent_packets", "sent_errs", "sent_drop", "sent_fifo", "sent_colls", "sent_carrier", "sent_compressed",
}

// netDevices writes the figures of the interfaces that a process sees.
func (e *exposition) netDevices(name, help string, pid int) {
	text := readProc(procOf(pid) + "/net/dev")
	begun := false
	for line := range strings.Lines(text) {
		device, figures, found := strings.Cut(line, ":")
		fields := strings.Fields(figures)
		if !found || len(fields) < len(netItems) {
			continue
		}
		if !begun {
			e.family(name, help, gauge)
			begun = true
		}
		for i, item := range netItems {
			if value, err := strconv.ParseFloat(fields[i], 64); err == nil {
				e.sample(name, value, "interface", strings.TrimSpace(device), "item", item)
			}
		}
	}
}

func procOf(pid int) string { return "/proc/" + strconv.Itoa(pid) }

// maxProcFile is above what any of these files has.
const maxProcFile = 256 << 10

func readProc(path string) string {
	f, err := os.Open(path)
	if err != nil {
		return ""
	}
	defer f.Close()
	data, _ := io.ReadAll(io.LimitReader(f, maxProcFile)) // a process that ends meanwhile has nothing more to tell
	return string(data)
}

// readStatus reads /proc/PID/status, in bytes where it says kB. The names are in small letters.
func readStatus(pid int) map[string]uint64 { return readCounts(procOf(pid) + "/status") }

// readCounts reads lines such as "VmRSS:  123 kB".
func readCounts(path string) map[string]uint64 {
	counts := make(map[string]uint64)
	for line := range strings.Lines(readProc(path)) {
		key, value, _ := strings.Cut(line, ":")
		fields := strings.Fields(value)
		if len(fields) == 0 {
			continue
		}
		n, err := strconv.ParseUint(fields[0], 10, 64)
		if err != nil {
			continue
		}
		if len(fields) == 2 && fields[1] == "kB" {
			n <<= 10
		}
		counts[strings.ToLower(key)] = n
	}
	return counts
}

// readTimes reads utime, stime, cutime and cstime of /proc/PID/stat.
func readTimes(pid int) []float64 {
	text := readProc(procOf(pid) + "/stat")
	fields := strings.Fields(text[strings.LastIndexByte(text, ')')+1:]) // a program's name may hold anything
	const utime, count = 11, 4                                          // counted from the state, the first after the name
	if len(fields) < utime+count {
		return nil
	}
	var times []float64
	for _, field := range fields[utime : utime+count] {
		n, err := strconv.ParseFloat(field, 64)
		if err != nil {
			return nil
		}
		times = append(times, n)
	}
	return times
}
