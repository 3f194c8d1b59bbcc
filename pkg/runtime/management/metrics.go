package management

import (
	"io"
	"os"
	"runtime"
	"runtime/debug"
	"time"

	"golang.org/x/sys/unix"

	"github.com/katadirect/katadirect/internal/calltimes"
)

// Metrics is what the sandbox knows about itself; what the kernel knows about the processes is read when asked.
type Metrics struct {
	// HypervisorPID and VirtiofsdPID are 0 when there is none.
	HypervisorPID, VirtiofsdPID int
	// Containers and Volumes are how many there are now.
	Containers, Volumes int
	// Boot is from the hypervisor's start to the agent's first answer. Hotplug is how long the hypervisor took to take
	// the latest direct volume. Both are 0 when there was none.
	Boot, Hotplug time.Duration
	// Resizes counts those of direct volumes that succeeded, ResizeFailures those that did not.
	Resizes, ResizeFailures uint64
	// Calls are how long the shim took for each kind of containerd's calls, AgentCalls the agent for the shim's.
	Calls, AgentCalls []calltimes.Of
	// Guest is what the agent says of itself and its machine, as Prometheus text, and GuestError why there is none. It
	// is not trusted.
	Guest      string
	GuestError error
}

// writeTo writes Prometheus' text format, which is simple enough not to need the client library: that alone would
// take a tenth of the memory the shim may have. The kata_ names, their labels and units are Kata's.
func (m Metrics) writeTo(w io.Writer) error {
	var e exposition
	e.process("kata_shim", "the shim", os.Getpid())
	e.netDevices("kata_shim_netdev", "Network interfaces of the shim's network namespace.", os.Getpid())
	e.goRuntime("kata_shim")
	e.goProcess("kata_shim")
	e.calls("kata_shim_rpc_durations_histogram_milliseconds", "How long containerd's calls took.", m.Calls)
	e.calls("kata_shim_agent_rpc_durations_histogram_milliseconds", "How long calls of the agent took.", m.AgentCalls)
	if m.HypervisorPID > 0 {
		e.process("kata_hypervisor", "the hypervisor", m.HypervisorPID)
		e.netDevices("kata_hypervisor_netdev", "Network interfaces of the hypervisor's network namespace.", m.HypervisorPID)
		e.single("katadirect_hypervisor_resident_memory_bytes", "Resident memory of the hypervisor.", gauge,
			float64(readStatus(m.HypervisorPID)["vmrss"]))
	}
	if m.VirtiofsdPID > 0 {
		e.process("kata_virtiofsd", "virtiofsd", m.VirtiofsdPID)
	}
	e.single("katadirect_containers", "Containers in the sandbox.", gauge, float64(m.Containers))
	e.single("katadirect_direct_volumes", "Direct volumes plugged into the machine.", gauge, float64(m.Volumes))
	e.single("katadirect_boot_seconds", "From the hypervisor's start to the agent's first answer.", gauge, m.Boot.Seconds())
	e.single("katadirect_hotplug_seconds", "How long the hypervisor took to take the latest direct volume.", gauge, m.Hotplug.Seconds())
	e.single("katadirect_direct_volume_resizes_total", "Direct volumes that were grown.", counter, float64(m.Resizes))
	e.single("katadirect_direct_volume_resize_failures_total", "Growing a direct volume failed.", counter, float64(m.ResizeFailures))
	answered := 1.0
	if m.GuestError != nil {
		answered = 0
	}
	e.single("katadirect_guest_metrics_up", "Whether the agent has told the guest's figures.", gauge, answered)
	e.guest(m.Guest)
	_, err := w.Write(e.Bytes())
	return err
}

// goRuntime writes what Kata's shim has of Prometheus' library for Go, as far as it costs nothing to find out: reading
// the memory statistics stops the world.
func (e *exposition) goRuntime(prefix string) {
	e.single(prefix+"_go_goroutines", "Goroutines of the shim.", gauge, float64(runtime.NumGoroutine()))
	e.family(prefix+"_go_info", "The shim's Go.", gauge)
	e.sample(prefix+"_go_info", 1, "version", runtime.Version())
	pauses := debug.GCStats{PauseQuantiles: make([]time.Duration, len(quantiles))}
	debug.ReadGCStats(&pauses)
	e.family(prefix+"_go_gc_duration_seconds", "Pauses of the shim's latest garbage collections.", summary)
	for i, q := range quantiles {
		e.sample(prefix+"_go_gc_duration_seconds", pauses.PauseQuantiles[i].Seconds(), "quantile", q)
	}
	e.sample(prefix+"_go_gc_duration_seconds_sum", pauses.PauseTotal.Seconds())
	e.sample(prefix+"_go_gc_duration_seconds_count", float64(pauses.NumGC))
}

// quantiles are those that Prometheus' library tells of the pauses.
var quantiles = []string{"0", "0.25", "0.5", "0.75", "1"}

// started is when the shim was, as near as its first steps.
var started = time.Now()

// goProcess writes what that library tells of the process itself.
func (e *exposition) goProcess(prefix string) {
	status := readStatus(os.Getpid())
	e.single(prefix+"_go_threads", "Threads of the shim.", gauge, float64(status["threads"]))
	e.single(prefix+"_process_resident_memory_bytes", "Resident memory of the shim.", gauge, float64(status["vmrss"]))
	e.single(prefix+"_process_virtual_memory_bytes", "Virtual memory of the shim.", gauge, float64(status["vmsize"]))
	e.limit(prefix+"_process_virtual_memory_max_bytes", "Virtual memory that the shim may have.", unix.RLIMIT_AS)
	e.limit(prefix+"_process_max_fds", "Files that the shim may have open.", unix.RLIMIT_NOFILE)
	if files, err := os.ReadDir("/proc/self/fd"); err == nil {
		e.single(prefix+"_process_open_fds", "Open files of the shim.", gauge, float64(len(files)))
	}
	e.single(prefix+"_process_start_time_seconds", "When the shim was started, in seconds since 1970.", gauge, float64(started.UnixMilli())/1000)
	if times := readTimes(os.Getpid()); len(times) > 0 {
		const ticksPerSecond = 100 // USER_HZ, the same on every Linux
		e.single(prefix+"_process_cpu_seconds_total", "Processor time of the shim.", counter, (times[0]+times[1])/ticksPerSecond)
	}
}

// limit writes one of the process's limits, 1.8e19 for none.
func (e *exposition) limit(name, help string, resource int) {
	var l unix.Rlimit
	if err := unix.Getrlimit(resource, &l); err == nil {
		e.single(name, help, gauge, float64(l.Cur))
	}
}
