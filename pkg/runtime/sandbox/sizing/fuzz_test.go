package sizing

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// sane fails the test for a workload from which a machine must not be computed.
func sane(t *testing.T, s Size) {
	t.Helper()
	if !(s.CPUs >= 0 && s.CPUs <= maxCPUs) || s.MemoryBytes < 0 || s.MemoryBytes > maxBytes {
		t.Errorf("%+v", s)
	}
	limits := Limits{Base: Machine{1, 256}, Most: Machine{4, 4096}}
	if m, err := limits.For(s); err == nil && (m.VCPUs < 1 || m.VCPUs > 4 || m.MemoryMiB < 256 || m.MemoryMiB > 4096) {
		t.Errorf("for %+v a machine of %+v", s, m)
	}
}

func FuzzOfContainer(f *testing.F) {
	page := `{"pageSize":"1GB","limit":1125899906842624}`
	for _, text := range []string{
		`{}`, `{"cpu":{"quota":-1,"period":0},"memory":{"limit":-1}}`, `{"cpu":{"quota":9223372036854775807,"period":1}}`,
		`{"cpu":{"cpus":"0-4294967295"}}`, `{"cpu":{"cpus":"1,2,,3-"}}`, `{"memory":{"limit":9223372036854775807}}`,
		`{"hugepageLimits":[{"pageSize":"","limit":18446744073709551615}]}`,
		`{"hugepageLimits":[` + page + strings.Repeat(","+page, 8191) + `]}`,
	} {
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		var r specs.LinuxResources
		if json.Unmarshal(text, &r) != nil {
			return
		}
		if s, err := OfContainer(&r); err == nil {
			sane(t, s)
		}
	})
}

func FuzzOfPod(f *testing.F) {
	f.Add(containerdQuota, "-9223372036854775808", containerdPeriod, "1")
	f.Add(containerdMemory, "9223372036854775807", containerdQuota, "x")
	f.Add(crioResources, `{"cpu_quota":1e300}`, crioResourcesOld, `{`)
	f.Fuzz(func(t *testing.T, k1, v1, k2, v2 string) {
		if s, err := OfPod(map[string]string{k1: v1, k2: v2}); err == nil {
			sane(t, s)
		}
	})
}
