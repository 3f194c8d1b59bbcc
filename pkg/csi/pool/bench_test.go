package pool_test

import (
	"context"
	"fmt"
	"sync/atomic"
	"testing"

	"github.com/katadirect/katadirect/pkg/csi/pool"
)

func BenchmarkCreate(b *testing.B) {
	for _, clients := range []int{1, 16} {
		b.Run(fmt.Sprintf("clients=%d", clients), func(b *testing.B) {
			p, err := pool.Open(context.Background(), b.TempDir(), pool.Options{Node: "n"})
			if err != nil {
				b.Fatal(err)
			}
			defer p.Close()
			var n atomic.Int64
			b.SetParallelism(clients / 2)
			b.ResetTimer()
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					_, err := p.Create(context.Background(), pool.Spec{Name: fmt.Sprint(n.Add(1)), FSType: "ext4", Size: pool.SizeRange{RequiredBytes: 16 << 20}})
					if err != nil {
						b.Error(err)
						return
					}
				}
			})
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "volumes/s")
		})
	}
}
