package shimv2

import (
	"os"
	"runtime"
	"runtime/debug"
)

// One shim runs for every pod of a node, so its own memory counts many times over. The live heap is a few MiB: a low
// growth target costs little time, and the soft limit makes the collector work harder before output that is being
// copied can make the process large.
const (
	growthPercent = 40
	softLimit     = 24 << 20
	// threads is plenty for copying streams; every processor brings caches of its own.
	threads = 2
)

func tuneMemory() {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(growthPercent)
	}
	if os.Getenv("GOMEMLIMIT") == "" {
		debug.SetMemoryLimit(softLimit)
	}
	if os.Getenv("GOMAXPROCS") == "" {
		runtime.GOMAXPROCS(min(threads, runtime.NumCPU()))
	}
}
