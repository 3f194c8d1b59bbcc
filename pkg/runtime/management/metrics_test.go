package management

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"

	"github.com/katadirect/katadirect/pkg/directvolume"
)

// scrape reads the metrics as Prometheus does.
func scrape(t *testing.T, b *sandbox) map[string]*dto.MetricFamily {
	t.Helper()
	c, _ := serve(t, b)
	status, text := ask(t, c, "GET", directvolume.PathMetrics, "")
	if status != 200 {
		t.Fatalf("%d %s", status, text)
	}
	parser := expfmt.NewTextParser(model.LegacyValidation)
	families, err := parser.TextToMetricFamilies(strings.NewReader(text))
	if err != nil {
		t.Fatalf("Prometheus cannot read it: %v\n%s", err, text)
	}
	return families
}

func TestPrometheusReadsKatasFamilies(t *testing.T) {
	families := scrape(t, &sandbox{guest: "# HELP kata_guest_load Load.\n# TYPE kata_guest_load gauge\nkata_guest_load{item=\"load1\"} 0.5\n"})
	for name, labels := range map[string]string{
		"kata_shim_threads": "", "kata_shim_fds": "", "kata_shim_proc_status": "item", "kata_shim_proc_stat": "item", "kata_shim_io_stat": "item",
		"kata_shim_go_goroutines": "", "kata_shim_go_info": "version", "kata_shim_go_threads": "",
		"kata_shim_process_cpu_seconds_total": "", "kata_shim_process_resident_memory_bytes": "", "kata_shim_process_virtual_memory_bytes": "",
		"kata_shim_rpc_durations_histogram_milliseconds":       "action",
		"kata_shim_agent_rpc_durations_histogram_milliseconds": "action",
		"kata_hypervisor_threads":                              "", "kata_hypervisor_fds": "", "kata_hypervisor_proc_status": "item", "kata_hypervisor_proc_stat": "item",
		"kata_hypervisor_io_stat": "item", "kata_hypervisor_netdev": "interface item",
		"kata_virtiofsd_threads": "", "kata_virtiofsd_fds": "", "kata_virtiofsd_proc_status": "item",
		"kata_guest_load": "item", "katadirect_containers": "", "katadirect_direct_volume_resizes_total": "",
	} {
		f := families[name]
		if f == nil {
			t.Errorf("no %s", name)
			continue
		}
		var got []string
		for _, l := range f.GetMetric()[0].GetLabel() {
			got = append(got, l.GetName())
		}
		if strings.Join(got, " ") != labels || f.GetHelp() == "" {
			t.Errorf("%s has the labels %q and the help %q", name, got, f.GetHelp())
		}
	}
	for name, want := range map[string]float64{"katadirect_containers": 2, "katadirect_direct_volumes": 1, "kata_guest_load": 0.5, "katadirect_guest_metrics_up": 1} {
		if got := families[name].GetMetric()[0].GetGauge().GetValue(); got != want {
			t.Errorf("%s is %v, want %v", name, got, want)
		}
	}
	h := families["kata_shim_agent_rpc_durations_histogram_milliseconds"].GetMetric()[0].GetHistogram()
	if h.GetSampleCount() != 3 || h.GetSampleSum() != 7.5 {
		t.Errorf("histogram %v", h)
	}
	for _, item := range families["kata_shim_proc_status"].GetMetric() {
		if item.GetLabel()[0].GetValue() == "vmrss" && item.GetGauge().GetValue() < 1<<20 {
			t.Errorf("resident memory is %v: not in bytes", item.GetGauge().GetValue())
		}
	}
}

// notThere are families of Kata's that docs/management.md says are not there, by the beginnings of their names.
var notThere = []string{"kata_shim_pod_overhead_", "kata_shim_go_memstats_"}

func TestEveryFamilyOfKatasIsThereOrSaidNotToBe(t *testing.T) {
	names, err := os.ReadFile("testdata/kata-names.txt")
	if err != nil {
		t.Fatal(err)
	}
	page, err := os.ReadFile("../../../docs/management.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, prefix := range notThere {
		if !strings.Contains(string(page), "`"+prefix+"…`") {
			t.Errorf("docs/management.md does not speak of %s…", prefix)
		}
	}
	families := scrape(t, &sandbox{})
	for name := range strings.Lines(string(names)) {
		name = strings.TrimSpace(name)
		if strings.HasPrefix(name, "#") {
			continue
		}
		missing := slices.ContainsFunc(notThere, func(prefix string) bool { return strings.HasPrefix(name, prefix) })
		if f := families[name]; (f == nil) != missing || f != nil && (f.GetHelp() == "" || len(f.GetMetric()) == 0) {
			t.Errorf("%s: %v", name, f)
		}
	}
}

func TestTheShimsProcessIsDescribedTruly(t *testing.T) {
	families := scrape(t, &sandbox{})
	value := func(name string) float64 { return families[name].GetMetric()[0].GetGauge().GetValue() }
	if at, now := value("kata_shim_process_start_time_seconds"), float64(time.Now().Unix()); at > now+1 || at < now-86400 {
		t.Errorf("started at %v, and now is %v", at, now)
	}
	if open, most := value("kata_shim_process_open_fds"), value("kata_shim_process_max_fds"); open < 3 || open > most {
		t.Errorf("%v files of %v are open", open, most)
	}
	if has, most := value("kata_shim_process_virtual_memory_bytes"), value("kata_shim_process_virtual_memory_max_bytes"); has < 1<<20 || has > most {
		t.Errorf("%v bytes of %v", has, most)
	}
	runtime.GC()
	pauses := scrape(t, &sandbox{})["kata_shim_go_gc_duration_seconds"].GetMetric()[0].GetSummary()
	if pauses.GetSampleCount() == 0 || pauses.GetSampleSum() <= 0 || len(pauses.GetQuantile()) != 5 {
		t.Errorf("pauses %v", pauses)
	}
}

func TestAGuestCannotSpoilTheMetricsNorSpeakForOthers(t *testing.T) {
	for name, guest := range map[string]string{
		"the shim's own family":    "kata_shim_threads 1e9\nkata_hypervisor_fds 1\nkatadirect_containers 77\n",
		"no text at all":           "\x00\xff\xfe{{{\n}}}\n\"",
		"broken lines":             "kata_guest_a{item=\"x} 1\nkata_guest_b{item=\"x\" 1\nkata_guest_c{=\"\"} 1\nkata_guest_d 1 2 3\nkata_guest_e x\n",
		"the same twice":           "kata_guest_twice 1\nkata_guest_twice 2\nkata_guest_two{a=\"b\"} 1\nkata_guest_two{a=\"b\"} 2\n",
		"a family in pieces":       "kata_guest_p{a=\"1\"} 1\nkata_guest_q 1\nkata_guest_p{a=\"2\"} 1\n",
		"types that fit nothing":   "# TYPE kata_guest_h histogram\nkata_guest_h 1\n# TYPE kata_guest_h counter\n# TYPE kata_guest_s summary\nkata_guest_s{quantile=\"2\"} 1\n",
		"a type twice":             "# TYPE kata_guest_t gauge\n# TYPE kata_guest_t counter\nkata_guest_t 1\n",
		"a label twice":            "kata_guest_l{a=\"1\",a=\"2\"} 1\n",
		"reserved labels":          "kata_guest_l{__name__=\"up\"} 1\n",
		"labels with everything":   "kata_guest_l{a=\"\\\\ \\\" \\n { } , # 😀 \x7f\"} 1\n",
		"a label with no UTF-8":    "kata_guest_l{a=\"\xff\"} 1\n",
		"a line feed in a help":    "# HELP kata_guest_l a\rb\\nkata_shim_threads 5\nkata_guest_l 1\n",
		"numbers at the edge":      "kata_guest_n1 NaN\nkata_guest_n2 +Inf\nkata_guest_n3 1e999\nkata_guest_n4 -0\n",
		"a name that is too long":  "kata_guest_" + strings.Repeat("x", 1000) + " 1\n",
		"a value that is too long": "kata_guest_v{a=\"" + strings.Repeat("x", 1000) + "\"} 1\n",
		"a line that never ends":   strings.Repeat("kata_guest_", 30_000),
	} {
		t.Run(name, func(t *testing.T) {
			families := scrape(t, &sandbox{guest: guest})
			for _, own := range []string{"kata_shim_threads", "kata_hypervisor_fds", "katadirect_containers"} {
				if f := families[own]; len(f.GetMetric()) != 1 || f.GetMetric()[0].GetGauge().GetValue() > 1e6 || f.GetMetric()[0].GetGauge().GetValue() == 77 {
					t.Errorf("%s is now %v", own, f)
				}
			}
			for family, f := range families {
				series := map[string]bool{}
				for _, m := range f.GetMetric() {
					key := fmt.Sprint(m.GetLabel())
					if series[key] {
						t.Errorf("%s has %s twice", family, key)
					}
					series[key] = true
				}
			}
		})
	}
}

func TestAGuestsMetricsAreBounded(t *testing.T) {
	var b strings.Builder
	for i := range 3 * maxGuestFamilies {
		fmt.Fprintf(&b, "kata_guest_f%d 1\n", i)
	}
	for i := range 2 * maxGuestSamples {
		fmt.Fprintf(&b, "kata_guest_f0{a=\"%d\"} 1\n", i)
	}
	guests, samples := 0, 0
	for name, f := range scrape(t, &sandbox{guest: b.String()}) {
		if strings.HasPrefix(name, "kata_guest_") {
			guests++
			samples += len(f.GetMetric())
		}
	}
	if guests != maxGuestFamilies || samples != maxGuestSamples {
		t.Errorf("%d families with %d samples", guests, samples)
	}
}

func TestKatasAgentsOwnFamiliesAreNamedAsInKata(t *testing.T) {
	families := scrape(t, &sandbox{guest: "# TYPE process_open_fds gauge\nprocess_open_fds 9\n# TYPE kata_agent_scrape_count counter\nkata_agent_scrape_count 4 1700000000000\n"})
	if got := families["kata_agent_process_open_fds"].GetMetric()[0].GetGauge().GetValue(); got != 9 {
		t.Errorf("open files %v", got)
	}
	if got := families["kata_agent_scrape_count"].GetMetric()[0].GetCounter().GetValue(); got != 4 {
		t.Errorf("scrapes %v", got)
	}
}

func TestASilentGuestCostsItsOwnFiguresOnly(t *testing.T) {
	families := scrape(t, &sandbox{fail: errors.New("no answer")})
	if got := families["katadirect_guest_metrics_up"].GetMetric()[0].GetGauge().GetValue(); got != 0 {
		t.Errorf("up is %v", got)
	}
	if families["kata_shim_threads"] == nil {
		t.Error("the shim's figures are gone too")
	}
}

func FuzzGuestMetrics(f *testing.F) {
	f.Add("# TYPE kata_guest_load gauge\nkata_guest_load{item=\"load1\"} 0.5\n")
	f.Add("kata_guest_x{a=\"\\n\",b=\"\\\"\"} NaN 5")
	f.Fuzz(func(t *testing.T, text string) {
		var e exposition
		e.guest(text)
		parser := expfmt.NewTextParser(model.LegacyValidation)
		families, err := parser.TextToMetricFamilies(&e.Buffer)
		if err != nil {
			t.Fatalf("%v\n%s", err, e.String())
		}
		for name := range families {
			if !strings.HasPrefix(name, "kata_guest_") && !strings.HasPrefix(name, "kata_agent_") {
				t.Errorf("family %s", name)
			}
		}
	})
}
