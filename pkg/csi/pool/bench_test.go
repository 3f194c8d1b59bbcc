package pool

import (
	"fmt"
	"os"
	"sync/atomic"
	"testing"
)

// poolOf1000 makes a pool with a thousand volumes, and returns its folder.
func poolOf1000(b *testing.B) string {
	b.Helper()
	dir, err := os.MkdirTemp("/var/tmp", "katadirect-pool-") // a disk, where /tmp may be memory
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { os.RemoveAll(dir) })
	p, err := Open(b.Context(), dir, Options{Node: testNode})
	if err != nil {
		b.Fatal(err)
	}
	for i := range 1000 {
		spec := ext4Spec(fmt.Sprint("pvc-00000000-0000-0000-0000-", i), 16*mib)
		spec.Parameters = map[string]string{"katadirect.io/mode": "direct"}
		if _, err := p.Create(b.Context(), spec); err != nil {
			b.Fatal(err)
		}
	}
	if err := p.Close(); err != nil {
		b.Fatal(err)
	}
	return dir
}

func BenchmarkOpenWith1000Volumes(b *testing.B) {
	dir := poolOf1000(b)
	for b.Loop() {
		p, err := Open(b.Context(), dir, Options{Node: testNode})
		if err != nil {
			b.Fatal(err)
		}
		if n := len(p.List(b.Context())); n != 1000 {
			b.Fatalf("%d volumes", n)
		}
		if err := p.Close(); err != nil {
			b.Fatal(err)
		}
	}
}

// Sixteen clients at once, as many as a busy external-provisioner has workers and more.
func BenchmarkCreateBy16(b *testing.B) {
	dir, err := os.MkdirTemp("/var/tmp", "katadirect-pool-")
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { os.RemoveAll(dir) })
	p, err := Open(b.Context(), dir, Options{Node: testNode})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = p.Close() })
	var n atomic.Int64
	b.SetParallelism(8) // times the processors
	b.RunParallel(func(run *testing.PB) {
		for run.Next() {
			if _, err := p.Create(b.Context(), ext4Spec(fmt.Sprint("pvc-", n.Add(1)), 16*mib)); err != nil {
				b.Error(err)
				return
			}
		}
	})
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "creates/s")
}
