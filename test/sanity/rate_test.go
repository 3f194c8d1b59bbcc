package sanity

import (
	"fmt"
	"testing"
)

// BenchmarkCreateVolume says how many volumes per second the driver makes durably, and how many plain system calls
// would make on the same disk right after. Run with -benchtime 2000x: each iteration is one volume.
func BenchmarkCreateVolume(b *testing.B) {
	dir := b.TempDir()
	conn := startDriver(b, dir, "warn").conn
	for _, clients := range []int{16, 1} {
		b.Run(fmt.Sprintf("clients=%d", clients), func(b *testing.B) {
			if b.N == 1 {
				return // the framework's trial run
			}
			rate, err := CreateRate(b.Context(), conn, clients, b.N)
			if err != nil {
				b.Fatal(err)
			}
			floor, err := FloorRate(b.Context(), dir, clients, b.N)
			if err != nil {
				b.Fatal(err)
			}
			b.ReportMetric(rate, "volumes/s")
			b.ReportMetric(floor, "floor/s")
			b.ReportMetric(0, "ns/op")
		})
	}
}
