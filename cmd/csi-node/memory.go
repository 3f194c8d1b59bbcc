package main

import (
	"os"
	"runtime/debug"
)

// growthPercent is how much the heap may grow before it is collected. One driver runs on every node, and does nothing
// most of the time: what a burst of calls leaves behind should not stay for good.
const growthPercent = 40

func tuneMemory() {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(growthPercent)
	}
}
