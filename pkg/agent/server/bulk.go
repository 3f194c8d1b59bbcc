package server

import (
	"cmp"
	"runtime/debug"
	"sync"
	"time"
)

// While much output flows, every piece of it is copied into three messages
// that are garbage a moment later. With the small heap that the agent
// otherwise keeps, half of its time would go into collecting them, again and
// again; so for as long as it lasts the heap may grow.
const (
	// bulkBytes is a read that is part of much output.
	bulkBytes = 64 << 10
	// bulkPercent lets the heap grow to some 16 MiB.
	bulkPercent = 400
	// bulkPause is how long after the last such read it is over.
	bulkPause = time.Second
)

// bulk notices that much output flows. The zero value is ready.
type bulk struct {
	mu     sync.Mutex
	over   *time.Timer // nil while little does
	normal int         // the collector's percentage before

	pause time.Duration // bulkPause if it is 0; a test has longer
}

// saw is told of each read.
func (b *bulk) saw(bytes int) {
	if bytes < bulkBytes {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	pause := cmp.Or(b.pause, bulkPause)
	if b.over != nil {
		b.over.Reset(pause)
		return
	}
	b.normal = debug.SetGCPercent(bulkPercent)
	b.over = time.AfterFunc(pause, b.end)
}

// end gives the memory back.
func (b *bulk) end() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.over == nil {
		return
	}
	b.over = nil
	debug.SetGCPercent(b.normal)
	debug.FreeOSMemory()
}
