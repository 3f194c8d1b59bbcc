package qemu_test

import (
	"testing"
	"time"

	"github.com/katadirect/katadirect/pkg/runtime/qemu"
	"github.com/katadirect/katadirect/pkg/runtime/vm"
)

// BenchmarkDisk measures what happens to a disk while a machine runs. Run it with -benchtime=20x.
func BenchmarkDisk(b *testing.B) {
	g, err := boot(qemu.Config{})
	if err != nil {
		b.Fatal(err)
	}
	defer func() {
		g.hangUp()
		if err := g.stopAndLook(); err != nil {
			b.Error(err)
		}
	}()
	if err := g.dial(); err != nil {
		b.Fatal(err)
	}
	g.t = b
	var plug, seen, resize, unplug time.Duration
	for range b.N {
		path := sparseFile(b, 64*mib)
		began := time.Now()
		g.plug(vm.Disk{ID: "bench", Path: path})
		plug += time.Since(began)
		g.disk("bench", true)
		seen += time.Since(began)
		began = time.Now()
		if err := g.m.ResizeDisk(b.Context(), "bench", 128*mib); err != nil {
			b.Fatal(err)
		}
		resize += time.Since(began)
		began = time.Now()
		g.unplug("bench")
		unplug += time.Since(began)
	}
	for what, total := range map[string]time.Duration{"plug": plug, "seen": seen, "resize": resize, "unplug": unplug} {
		b.ReportMetric(float64(total.Microseconds())/1000/float64(b.N), what+"-ms/op")
	}
	b.ReportMetric(0, "ns/op")
}
