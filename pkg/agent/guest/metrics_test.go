package guest

import (
	"os"
	"strings"
	"testing"
	"time"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
)

func TestMemoryHasKatasNames(t *testing.T) {
	for name, want := range map[string]string{
		"MemTotal": "mem_total", "MemAvailable": "mem_available", "Buffers": "buffers", "SwapCached": "swap_cached",
		"Active(anon)": "active_anon", "Inactive(file)": "inactive_file", "SReclaimable": "s_reclaimable",
		"SUnreclaim": "s_unreclaim", "KReclaimable": "k_reclaimable", "KernelStack": "kernel_stack",
		"PageTables": "page_tables", "NFS_Unstable": "nfs_unstable", "WritebackTmp": "writeback_tmp",
		"CommitLimit": "commit_limit", "Committed_AS": "committed_as", "VmallocTotal": "vmalloc_total",
		"HardwareCorrupted": "hardware_corrupted", "AnonHugePages": "anon_hugepages", "ShmemHugePages": "shmem_hugepages",
		"ShmemPmdMapped": "shmem_pmd_mapped", "HugePages_Total": "hugepages_total", "HugePages_Rsvd": "hugepages_rsvd",
		"Hugepagesize": "hugepagesize", "Hugetlb": "hugetlb", "DirectMap4k": "direct_map_4k", "DirectMap1G": "direct_map_1G",
		"Percpu": "per_cpu", "CmaTotal": "cma_total",
	} {
		if got := memoryItem(name); got != want {
			t.Errorf("%s is %s, want %s", name, got, want)
		}
	}
}

// figures are the guest's as Prometheus reads them.
func figures(t *testing.T) map[string]*dto.MetricFamily {
	t.Helper()
	parser := expfmt.NewTextParser(model.LegacyValidation)
	families, err := parser.TextToMetricFamilies(strings.NewReader(Metrics()))
	if err != nil {
		t.Fatal(err)
	}
	return families
}

func TestEveryFamilyOfKatasAgentIsThere(t *testing.T) {
	names, err := os.ReadFile("testdata/kata-names.txt")
	if err != nil {
		t.Fatal(err)
	}
	families := figures(t)
	for name := range strings.Lines(string(names)) {
		name = strings.TrimSpace(name)
		if f := families[name]; !strings.HasPrefix(name, "#") && (f.GetHelp() == "" || len(f.GetMetric()) == 0) {
			t.Errorf("%s: %v", name, f)
		}
	}
}

func TestTheAgentsProcessIsDescribedTruly(t *testing.T) {
	families := figures(t)
	value := func(name string) float64 {
		return families["kata_agent_process_"+name].GetMetric()[0].GetGauge().GetValue()
	}
	if at, now := value("start_time_seconds"), float64(time.Now().Unix()); at > now+1 || at < now-86400 {
		t.Errorf("started at %v, and now is %v", at, now)
	}
	if open, most := value("open_fds"), value("max_fds"); open < 3 || open > most {
		t.Errorf("%v files of %v are open", open, most)
	}
	if has, all := value("resident_memory_bytes"), value("virtual_memory_bytes"); has < 1<<20 || has > all {
		t.Errorf("%v bytes of %v are in memory", has, all)
	}
}

func TestPrometheusReadsTheGuestsFigures(t *testing.T) {
	families := figures(t)
	for name, labels := range map[string]string{
		"kata_agent_scrape_count": "", "kata_agent_threads": "", "kata_agent_total_vm": "", "kata_agent_total_rss": "",
		"kata_agent_total_time": "", "kata_agent_io_stat": "item", "kata_agent_proc_stat": "item", "kata_agent_proc_status": "item",
		"kata_guest_load": "item", "kata_guest_tasks": "item", "kata_guest_meminfo": "item", "kata_guest_vm_stat": "item",
		"kata_guest_cpu_time": "cpu item", "kata_guest_netdev_stat": "interface item", "kata_guest_diskstat": "disk item",
	} {
		f := families[name]
		if f == nil || f.GetHelp() == "" {
			t.Errorf("%s: %v", name, f)
			continue
		}
		var got []string
		for _, l := range f.GetMetric()[0].GetLabel() {
			got = append(got, l.GetName())
		}
		if strings.Join(got, " ") != labels {
			t.Errorf("%s has the labels %q", name, got)
		}
	}
}
