package sizing

import (
	"errors"
	"math"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
)

const mib = 1 << 20

func TestAPodsAnnotationsSayWhatItMayUse(t *testing.T) {
	for _, tc := range []struct {
		name        string
		annotations map[string]string
		want        Size
		err         error
	}{
		{"nothing", nil, Size{}, nil},
		{"containerd", map[string]string{containerdQuota: "220000", containerdPeriod: "100000", containerdMemory: "1048576"}, Size{2.2, mib}, nil},
		{"no limits", map[string]string{containerdQuota: "0", containerdPeriod: "100000", containerdMemory: "0"}, Size{}, nil},
		{"no quota", map[string]string{containerdQuota: "-1", containerdPeriod: "100000", containerdMemory: "-1"}, Size{}, nil},
		{"a quota without a period", map[string]string{containerdQuota: "100"}, Size{}, nil},
		{"CRI-O", map[string]string{crioResources: `{"cpu_period":100000,"cpu_quota":50000,"memory_limit_in_bytes":2097152,"x":1}`}, Size{0.5, 2 * mib}, nil},
		{"CRI-O of old", map[string]string{crioResourcesOld: `{"memory_limit_in_bytes":2097152}`}, Size{0, 2 * mib}, nil},
		{"no number", map[string]string{containerdMemory: "much"}, Size{}, ErrInvalid},
		{"less than nothing", map[string]string{containerdMemory: "-5"}, Size{}, ErrInvalid},
		{"a quota below none", map[string]string{containerdQuota: "-2"}, Size{}, ErrInvalid},
		{"more than any machine", map[string]string{containerdMemory: "9223372036854775807"}, Size{}, ErrTooLarge},
		{"no JSON", map[string]string{crioResources: "{"}, Size{}, ErrInvalid},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if got, err := OfPod(tc.annotations); got != tc.want || !errors.Is(err, tc.err) {
				t.Errorf("%+v, %v; want %+v, %v", got, err, tc.want, tc.err)
			}
		})
	}
}

func TestAContainersLimitsSayWhatItMayUse(t *testing.T) {
	ptr := func(n int64) *int64 { return &n }
	period := uint64(100000)
	for _, tc := range []struct {
		name string
		r    *specs.LinuxResources
		want Size
		err  error
	}{
		{"nothing", nil, Size{}, nil},
		{"no limits", &specs.LinuxResources{CPU: &specs.LinuxCPU{}, Memory: &specs.LinuxMemory{}}, Size{}, nil},
		{"both", &specs.LinuxResources{CPU: &specs.LinuxCPU{Quota: ptr(150000), Period: &period}, Memory: &specs.LinuxMemory{Limit: ptr(5)}}, Size{1.5, 5}, nil},
		{"a set of processors", &specs.LinuxResources{CPU: &specs.LinuxCPU{Cpus: "0-3, 7"}}, Size{5, 0}, nil},
		{"a quota before a set", &specs.LinuxResources{CPU: &specs.LinuxCPU{Quota: ptr(100000), Period: &period, Cpus: "0-3"}}, Size{1, 0}, nil},
		{"huge pages", &specs.LinuxResources{HugepageLimits: []specs.LinuxHugepageLimit{{Pagesize: "2MB", Limit: 4 * mib}}}, Size{0, 4 * mib}, nil},
		{"a set of nonsense", &specs.LinuxResources{CPU: &specs.LinuxCPU{Cpus: "3-1"}}, Size{}, ErrInvalid},
		{"a set of very many", &specs.LinuxResources{CPU: &specs.LinuxCPU{Cpus: "0-65535,0-65535"}}, Size{maxCPUs, 0}, nil},
		{"huge pages beyond measure", &specs.LinuxResources{HugepageLimits: []specs.LinuxHugepageLimit{{Limit: math.MaxUint64}}}, Size{}, ErrTooLarge},
		{"less than nothing", &specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: ptr(-7)}}, Size{}, ErrInvalid},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if got, err := OfContainer(tc.r); got != tc.want || !errors.Is(err, tc.err) {
				t.Errorf("%+v, %v; want %+v, %v", got, err, tc.want, tc.err)
			}
		})
	}
}

func TestAMachineHasTheBaseAndTheWorkload(t *testing.T) {
	limits := Limits{Base: Machine{1, 256}, Most: Machine{4, 1024}}
	for _, tc := range []struct {
		workload Size
		want     Machine
	}{
		{Size{}, Machine{1, 256}},
		{Size{0.1, 1}, Machine{2, 257}},
		{Size{2.2, 100 * mib}, Machine{4, 356}},
		{Size{400, 768 * mib}, Machine{4, 1024}},
	} {
		if got, err := limits.For(tc.workload); got != tc.want || err != nil {
			t.Errorf("%+v gives %+v, %v; want %+v", tc.workload, got, err, tc.want)
		}
	}
	if _, err := limits.For(Size{0, 768*mib + 1}); !errors.Is(err, ErrTooLarge) || !strings.Contains(err.Error(), "default_maxmemory") {
		t.Errorf("more than there can be: %v", err)
	}
	plugged := Limits{Base: Machine{1, 200}, Most: Machine{4, 1096}, StepMiB: 128}
	for wantedMiB, want := range map[int64]int{0: 200, 1: 328, 128: 328, 129: 456, 896: 1096} {
		if got, err := plugged.For(Size{MemoryBytes: wantedMiB * mib}); err != nil || got.MemoryMiB != want {
			t.Errorf("with %d MiB plugged in: %+v, %v; want %d", wantedMiB, got, err, want)
		}
	}
	plugged.Most.MemoryMiB--
	if _, err := plugged.For(Size{MemoryBytes: 800 * mib}); !errors.Is(err, ErrTooLarge) || !strings.Contains(err.Error(), "steps of 128 MiB") {
		t.Errorf("what fits, but not in steps: %v", err)
	}
	if got, err := (Limits{Base: Machine{8, 256}, Most: Machine{4, 128}}).For(Size{CPUs: 1}); err != nil || got != (Machine{8, 256}) {
		t.Errorf("a base above the most: %+v, %v", got, err)
	}
}

func TestTheMostIsWhatTheConfigurationAndTheHostAllow(t *testing.T) {
	host := Machine{4, 1000}
	for _, tc := range []struct{ vcpus, memory, wantVCPUs, wantMemory int }{
		{0, 0, 4, 1000}, {2, 500, 2, 500}, {64, 5000, 4, 1000},
	} {
		if got := Most(tc.vcpus, tc.memory, host); got != (Machine{tc.wantVCPUs, tc.wantMemory}) {
			t.Errorf("%+v: %+v", tc, got)
		}
	}
	if got := Most(0, 0, Machine{512, 1000}); got.VCPUs != 240 {
		t.Errorf("of 512 processors a machine may have %d", got.VCPUs)
	}
	if real, err := Host(); err != nil || real.VCPUs < 1 || real.MemoryMiB < 64 {
		t.Errorf("this host has %+v, %v", real, err)
	}
}
