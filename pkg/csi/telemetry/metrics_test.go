package telemetry

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	"google.golang.org/grpc/codes"
)

func TestEveryCallIsCountedByItsCodeAndTimed(t *testing.T) {
	registry := prometheus.NewRegistry()
	calls := NewCalls(registry)
	for _, code := range []codes.Code{codes.OK, codes.OK, codes.Aborted} {
		calls.Begin("CreateVolume")(code)
	}
	calls.Begin("NodeExpandVolume") // under way
	calls.Froze(time.Second)
	sameValues(t, gather(t, registry), map[string]float64{
		"calls_total{code=OK,method=CreateVolume}":      2,
		"calls_total{code=Aborted,method=CreateVolume}": 1,
		"call_duration_seconds{method=CreateVolume}":    3,
		"calls_in_flight{method=CreateVolume}":          0,
		"calls_in_flight{method=NodeExpandVolume}":      1,
		"freeze_duration_seconds{}":                     1,
	})
}

func TestNobodyHasToCount(t *testing.T) {
	var calls *Calls
	calls.Begin("CreateVolume")(codes.OK)
	calls.Froze(time.Second)
}

func TestAScrapeSaysHowPoolVolumesAndRecordsAre(t *testing.T) {
	registry := prometheus.NewRegistry()
	RegisterState(registry, source{state: full()}, 10, quiet)
	sameValues(t, gather(t, registry), map[string]float64{
		"state_readable{}":                            1,
		"pool_size_bytes{pool=/pool}":                 1,
		"pool_free_bytes{pool=/pool}":                 2,
		"pool_promised_bytes{pool=/pool}":             3,
		"pool_booked_bytes{pool=/pool}":               4,
		"pool_taken_bytes{pool=/pool}":                5,
		"pool_available_bytes{pool=/pool}":            20,
		"pool_overcommit_ratio{pool=/pool}":           2.5,
		"pool_short{pool=/pool}":                      1,
		"volumes{state=usable}":                       1,
		"volumes{state=damaged}":                      6,
		"volumes_staged{}":                            7,
		"snapshots{}":                                 21,
		"volumes_unreported{}":                        0,
		"records{state=readable}":                     8,
		"records{state=unreadable}":                   9,
		"claims{state=live}":                          10,
		"claims{state=stale}":                         11,
		"volume_size_bytes{volume=kd-1}":              12,
		"volume_allocated_bytes{volume=kd-1}":         13,
		"volume_stats_timestamp_seconds{volume=kd-1}": 14.5,
		"volume_capacity_bytes{volume=kd-1}":          15,
		"volume_used_bytes{volume=kd-1}":              16,
		"volume_available_bytes{volume=kd-1}":         17,
		"volume_inodes{volume=kd-1}":                  18,
		"volume_inodes_used{volume=kd-1}":             19,
		"volume_abnormal{volume=kd-1}":                1,
		"volume_in_machine{volume=kd-1}":              1,
		"volume_problem{reason=ReadOnly,volume=kd-1}": 1,

		"volume_info{filesystem=ext4,persistentvolume=pvc-1,volume=kd-1}":        1,
		"volume_call_failing_since_seconds{method=NodeExpandVolume,volume=kd-1}": 22,
		"volume_guest_silent{volume=kd-1}":                                       1,
	})
}

func TestAVolumeOfWhichNoGuestHasSpokenHasNoFiguresOfAGuest(t *testing.T) {
	registry := prometheus.NewRegistry()
	RegisterState(registry, source{state: State{Volumes: []Volume{{ID: "kd-1", SizeBytes: 1}}}}, 10, quiet)
	for name := range gather(t, registry) {
		if strings.HasPrefix(name, "volume_") && !strings.HasPrefix(name, "volume_size_") && !strings.HasPrefix(name, "volume_allocated_") && !strings.HasPrefix(name, "volume_info") && !strings.HasPrefix(name, "volume_in_machine") {
			t.Errorf("%s is reported", name)
		}
	}
}

func TestVolumesBeyondTheLimitAreCountedAndHaveNoSeries(t *testing.T) {
	var state State
	for i := range 5000 {
		state.Volumes = append(state.Volumes, Volume{ID: fmt.Sprintf("kd-%04d", i), Guest: full().Volumes[0].Guest})
	}
	registry := prometheus.NewRegistry()
	RegisterState(registry, source{state: state}, 3, quiet)
	values := gather(t, registry)
	if got := values["volumes_unreported{}"]; got != 4997 {
		t.Errorf("%v volumes are unreported", got)
	}
	if values["volumes{state=usable}"] != 5000 {
		t.Errorf("%v volumes are counted", values["volumes{state=usable}"])
	}
	series := 0
	for name := range values {
		if strings.Contains(name, "volume=") {
			series++
		}
	}
	if want := 3 * 13; series != want {
		t.Errorf("%d series of volumes, want %d", series, want)
	}
}

func TestAScrapeThatCannotReadTheStateSaysSoAndKeepsTheRest(t *testing.T) {
	var log bytes.Buffer
	registry := prometheus.NewRegistry()
	NewCalls(registry).Begin("Probe")(codes.OK)
	RegisterState(registry, source{err: errors.New("disk on fire")}, 10, slog.New(slog.NewTextHandler(&log, nil)))
	values := gather(t, registry)
	if readable, found := values["state_readable{}"]; readable != 0 || !found {
		t.Errorf("state_readable is %v, %t", readable, found)
	}
	if values["calls_total{code=OK,method=Probe}"] != 1 || len(values) != 5 {
		t.Errorf("the scrape has %v", values)
	}
	if !strings.Contains(log.String(), "disk on fire") {
		t.Errorf("the log says %q", log.String())
	}
}

func TestAGuestThatHasNeverAnsweredIsSilentAndNothingElse(t *testing.T) {
	registry := prometheus.NewRegistry()
	RegisterState(registry, source{state: State{Volumes: []Volume{{ID: "kd-1", Guest: &GuestState{Silent: true}}}}}, 10, quiet)
	values := gather(t, registry)
	if values["volume_guest_silent{volume=kd-1}"] != 1 {
		t.Errorf("not silent: %v", values)
	}
	if _, found := values["volume_capacity_bytes{volume=kd-1}"]; found {
		t.Error("what nobody has said is reported")
	}
}

// docs/observability.md has one row for every metric: | `name` | type | labels | meaning |.
func TestTheDocumentNamesEveryMetricAsItIs(t *testing.T) {
	registry := NewRegistry("v1")
	NewCalls(registry).Begin("Probe")(codes.OK)
	RegisterState(registry, source{state: full()}, 10, quiet)
	var want []string
	for _, f := range families(t, registry) {
		want = append(want, fmt.Sprintf("| `%s` | %s | %s | %s |", f.GetName(), strings.ToLower(f.GetType().String()), labelsOf(f), f.GetHelp()))
	}
	text, err := os.ReadFile("../../../docs/observability.md")
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for line := range strings.Lines(string(text)) {
		if strings.HasPrefix(line, "| `katadirect_csi_") {
			got = append(got, strings.TrimSpace(line))
		}
	}
	for _, row := range want {
		if !slices.Contains(got, row) {
			t.Errorf("missing in the document:\n%s", row)
		}
	}
	for _, row := range got {
		if !slices.Contains(want, row) {
			t.Errorf("in the document, and not so:\n%s", row)
		}
	}
}

func labelsOf(f *dto.MetricFamily) string {
	var names []string
	for _, l := range f.GetMetric()[0].GetLabel() {
		names = append(names, "`"+l.GetName()+"`")
	}
	if len(names) == 0 {
		return "–"
	}
	return strings.Join(names, ", ")
}
