package task

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/containerd/cgroups/v3/cgroup2/stats"
	taskapi "github.com/containerd/containerd/api/runtime/task/v2"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/katadirect/katadirect/pkg/agentproto"
)

func TestStatsAreContainerdsMetrics(t *testing.T) {
	t.Parallel()
	r := newRig(t, hooks{})
	r.sandbox.stats = &agentproto.StatsContainerResponse{CgroupStats: &agentproto.CgroupStats{
		CpuStats: &agentproto.CpuStats{
			CpuUsage:       &agentproto.CpuUsage{TotalUsage: 5_000_000, UsageInUsermode: 3_000_000, UsageInKernelmode: 2_000_000},
			ThrottlingData: &agentproto.ThrottlingData{Periods: 4, ThrottledPeriods: 1, ThrottledTime: 7000},
		},
		MemoryStats: &agentproto.MemoryStats{
			Usage: &agentproto.MemoryData{Usage: 1000, Limit: 2000, MaxUsage: 1500},
			Stats: map[string]uint64{"inactive_file": 100, "anon": 600, "pgmajfault": 3, "psi": 1, "a name of tomorrow": 9},
		},
		PidsStats: &agentproto.PidsStats{Current: 2, Limit: 10},
		BlkioStats: &agentproto.BlkioStats{
			IoServiceBytesRecursive: []*agentproto.BlkioStatsEntry{
				{Major: 254, Minor: 0, Op: "Read", Value: 4096}, {Major: 254, Minor: 0, Op: "Write", Value: 512},
				{Major: 254, Minor: 16, Op: "Read", Value: 1},
			},
			IoServicedRecursive: []*agentproto.BlkioStatsEntry{{Major: 254, Minor: 0, Op: "Read", Value: 8}},
		},
		HugetlbStats: map[string]*agentproto.HugetlbStats{"2MB": {Usage: 4 << 20, Failcnt: 3}, "1GB": {}},
	}}
	r.run(spec{id: "c1", args: forever()})
	resp, err := r.client.Stats(r.ctx, &taskapi.StatsRequest{ID: "c1"})
	if err != nil {
		t.Fatal(err)
	}
	wantEqual(t, "type", resp.GetStats().GetTypeUrl(), "io.containerd.cgroups.v2.Metrics")
	got := new(stats.Metrics)
	if err := proto.Unmarshal(resp.GetStats().GetValue(), got); err != nil {
		t.Fatal(err)
	}
	want := &stats.Metrics{
		Pids: &stats.PidsStat{Current: 2, Limit: 10},
		CPU: &stats.CPUStat{
			UsageUsec: 5000, UserUsec: 3000, SystemUsec: 2000, NrPeriods: 4, NrThrottled: 1, ThrottledUsec: 7,
		},
		Memory: &stats.MemoryStat{
			Usage: 1000, UsageLimit: 2000, MaxUsage: 1500, InactiveFile: 100, Anon: 600, Pgmajfault: 3,
		},
		Io: &stats.IOStat{Usage: []*stats.IOEntry{
			{Major: 254, Minor: 0, Rbytes: 4096, Wbytes: 512, Rios: 8}, {Major: 254, Minor: 16, Rbytes: 1},
		}},
		Hugetlb: []*stats.HugeTlbStat{{Pagesize: "1GB"}, {Pagesize: "2MB", Current: 4 << 20, Failcnt: 3}},
	}
	if diff := cmp.Diff(want, got, protocmp.Transform()); diff != "" {
		t.Error(diff)
	}
}

func TestStatsOfACgroupVersion1GuestFindTheirPlace(t *testing.T) {
	t.Parallel()
	got := memory(&agentproto.MemoryStats{
		Cache: 7, Stats: map[string]uint64{"total_inactive_file": 5, "total_rss": 6},
	})
	if got.InactiveFile != 5 || got.Anon != 6 || got.File != 7 {
		t.Errorf("got %v", got)
	}
}

func TestAnOOMKillIsReported(t *testing.T) {
	t.Parallel()
	r := newRig(t, hooks{})
	req := r.request(spec{id: "c1", args: forever()})
	if _, err := r.client.Create(r.ctx, req); err != nil {
		t.Fatal(err)
	}
	r.start("c1", "")
	r.sandbox.oom <- "no such container"
	r.sandbox.oom <- strings.Repeat("x", 1<<20)
	r.sandbox.oom <- "c1"
	r.await("oom c1")
	if n := len(r.log.String()); n > 1<<16 {
		t.Errorf("the guest wrote %d bytes into the log", n)
	}
	r.sandbox.oom <- "no such container" // by now the first report is finished
	if _, err := os.Stat(filepath.Join(req.GetBundle(), "oom")); err != nil {
		t.Errorf("CRI-O would not know: %v", err)
	}
	if got := r.sequence(); slices.Contains(got, "oom no such container") {
		t.Errorf("events %q", got)
	}
}

func TestAGuestThatInventsOOMKillsCannotFloodContainerd(t *testing.T) {
	t.Parallel()
	r := newRig(t, hooks{})
	if _, err := r.client.Create(r.ctx, r.request(spec{id: "c1", args: forever()})); err != nil {
		t.Fatal(err)
	}
	r.start("c1", "")
	const reports = 5
	begin := time.Now()
	for range reports { // each is taken only when the guest is asked again
		r.sandbox.oom <- "c1"
	}
	if took := time.Since(begin); took < (reports-1)*oomPause {
		t.Errorf("%d reports were taken in %v", reports, took)
	}
}

func TestUpdatePassesTheNewLimitsOn(t *testing.T) {
	t.Parallel()
	r := newRig(t, hooks{})
	r.run(spec{id: "c1", args: forever()})
	_, err := r.client.Update(r.ctx, &taskapi.UpdateTaskRequest{ID: "c1", Resources: &anypb.Any{
		TypeUrl: "types.containerd.io/opencontainers/runtime-spec/1/LinuxResources", Value: []byte(`{"memory":{"limit":4096}}`),
	}})
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Contains(r.sandbox.called(), "update c1 memory 4096") {
		t.Errorf("calls %q", r.sandbox.called())
	}
	_, err = r.client.Update(r.ctx, &taskapi.UpdateTaskRequest{ID: "c1", Resources: &anypb.Any{Value: []byte("{")}})
	if err == nil {
		t.Error("nonsense was accepted")
	}
}
