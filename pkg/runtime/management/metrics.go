package management

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"runtime"
	"strconv"
	"strings"
	"time"
)

// Metrics is what the sandbox knows about itself; what the kernel knows about the processes is read when asked.
type Metrics struct {
	// HypervisorPID is 0 when there is none.
	HypervisorPID int
	// Containers and Volumes are how many there are now.
	Containers, Volumes int
	// Boot is from the hypervisor's start to the agent's first answer. Hotplug is how long the hypervisor took to take
	// the latest direct volume. Both are 0 when there was none.
	Boot, Hotplug time.Duration
	// Resizes counts those of direct volumes that succeeded, ResizeFailures those that did not.
	Resizes, ResizeFailures uint64
}

// writeTo writes Prometheus' text format, which is simple enough not to need the client library: that alone would
// take a tenth of the memory the shim may have. The kata_ names are Kata's.
func (m Metrics) writeTo(w io.Writer) error {
	var b bytes.Buffer
	shim := readProcess(os.Getpid())
	write(&b, "kata_shim_process_resident_memory_bytes", "Resident memory of the shim.", "gauge", shim.residentBytes)
	write(&b, "kata_shim_threads", "Threads of the shim.", "gauge", shim.threads)
	write(&b, "kata_shim_fds", "Open files of the shim.", "gauge", shim.files)
	write(&b, "kata_shim_go_goroutines", "Goroutines of the shim.", "gauge", uint64(runtime.NumGoroutine()))
	if m.HypervisorPID > 0 {
		h := readProcess(m.HypervisorPID)
		write(&b, "kata_hypervisor_threads", "Threads of the hypervisor.", "gauge", h.threads)
		write(&b, "kata_hypervisor_fds", "Open files of the hypervisor.", "gauge", h.files)
		write(&b, "katadirect_hypervisor_resident_memory_bytes", "Resident memory of the hypervisor.", "gauge", h.residentBytes)
	}
	write(&b, "katadirect_containers", "Containers in the sandbox.", "gauge", uint64(m.Containers))
	write(&b, "katadirect_direct_volumes", "Direct volumes plugged into the machine.", "gauge", uint64(m.Volumes))
	writeSeconds(&b, "katadirect_boot_seconds", "From the hypervisor's start to the agent's first answer.", m.Boot)
	writeSeconds(&b, "katadirect_hotplug_seconds", "How long the hypervisor took to take the latest direct volume.", m.Hotplug)
	write(&b, "katadirect_direct_volume_resizes_total", "Direct volumes that were grown.", "counter", m.Resizes)
	write(&b, "katadirect_direct_volume_resize_failures_total", "Growing a direct volume failed.", "counter", m.ResizeFailures)
	_, err := w.Write(b.Bytes())
	return err
}

func write(b *bytes.Buffer, name, help, kind string, value uint64) {
	fmt.Fprintf(b, "# HELP %s %s\n# TYPE %s %s\n%s %d\n", name, help, name, kind, name, value)
}

func writeSeconds(b *bytes.Buffer, name, help string, d time.Duration) {
	fmt.Fprintf(b, "# HELP %s %s\n# TYPE %s gauge\n%s %g\n", name, help, name, name, d.Seconds())
}

type process struct{ residentBytes, threads, files uint64 }

// readProcess reads what proc(5) says; of a process that is gone, nothing.
func readProcess(pid int) process {
	dir := "/proc/" + strconv.Itoa(pid)
	var p process
	status, err := os.ReadFile(dir + "/status")
	if err != nil {
		return p
	}
	for line := range strings.SplitSeq(string(status), "\n") {
		key, value, _ := strings.Cut(line, ":")
		fields := strings.Fields(value)
		if len(fields) == 0 {
			continue
		}
		n, err := strconv.ParseUint(fields[0], 10, 64)
		if err != nil {
			continue
		}
		switch key {
		case "VmRSS":
			p.residentBytes = n << 10
		case "Threads":
			p.threads = n
		}
	}
	if files, err := os.ReadDir(dir + "/fd"); err == nil {
		p.files = uint64(len(files))
	}
	return p
}
