package main

import (
	"os"
	"runtime"
	"runtime/debug"
)

// growthPercent is how much the heap may grow before it is collected. One driver runs on every node, and does nothing
// most of the time: what a burst of calls leaves behind should not stay for good.
const growthPercent = 40

// minThreads is how many goroutines run at once at least, as far as Go is concerned. Nearly all of the driver's time is
// spent waiting for the disk in system calls, and a goroutine in one keeps its place from others for as much as
// milliseconds before Go's monitor takes it away. On two processors a fifth more volumes are made in a second with it.
const minThreads = 8

// tune sets Go's own settings, unless the environment does.
func tune() {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(growthPercent)
	}
	if os.Getenv("GOMAXPROCS") == "" && runtime.GOMAXPROCS(0) < minThreads {
		runtime.GOMAXPROCS(minThreads)
	}
}
