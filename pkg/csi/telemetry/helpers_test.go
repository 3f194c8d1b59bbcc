package telemetry

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
)

// source answers as a test tells it.
type source struct {
	state State
	err   error
}

func (s source) State(context.Context) (State, error) { return s.state, s.err }

var quiet = slog.New(slog.DiscardHandler)

// full is a state in which every metric has a value, each another one.
func full() State {
	return State{
		Pool:    Pool{Path: "/pool", SizeBytes: 1, FreeBytes: 2, PromisedBytes: 3, BookedBytes: 4, TakenBytes: 5, AvailableBytes: 20, Overcommit: 2.5, Short: true},
		Damaged: 6, Staged: 7, Snapshots: 21, Records: 8, UnreadableRecords: 9, Claims: 10, StaleClaims: 11,
		Volumes: []Volume{{ID: "kd-1", Name: "pvc-1", FileSystem: "ext4", SizeBytes: 12, AllocatedBytes: 13, InMachine: true, Failing: map[string]time.Time{"NodeExpandVolume": time.Unix(22, 0)}, Guest: &GuestState{
			When: time.Unix(14, 500e6), CapacityBytes: 15, UsedBytes: 16, AvailableBytes: 17, Inodes: 18, InodesUsed: 19,
			Abnormal: true, Silent: true, Problems: []string{"ReadOnly"},
		}}},
	}
}

// gather returns every value by its name and labels, histograms by their count.
func gather(t *testing.T, from prometheus.Gatherer) map[string]float64 {
	t.Helper()
	values := map[string]float64{}
	for _, family := range families(t, from) {
		for _, m := range family.GetMetric() {
			var labels []string
			for _, l := range m.GetLabel() {
				labels = append(labels, fmt.Sprintf("%s=%s", l.GetName(), l.GetValue()))
			}
			name := strings.TrimPrefix(family.GetName(), "katadirect_csi_") + "{" + strings.Join(labels, ",") + "}"
			values[name] = m.GetGauge().GetValue() + m.GetCounter().GetValue() + float64(m.GetHistogram().GetSampleCount())
		}
	}
	return values
}

// families are the driver's own metrics.
func families(t *testing.T, from prometheus.Gatherer) []*dto.MetricFamily {
	t.Helper()
	all, err := from.Gather()
	if err != nil {
		t.Fatal(err)
	}
	return slices.DeleteFunc(all, func(f *dto.MetricFamily) bool { return !strings.HasPrefix(f.GetName(), "katadirect_") })
}

func sameValues(t *testing.T, got, want map[string]float64) {
	t.Helper()
	for _, name := range slices.Sorted(maps.Keys(want)) {
		if value, found := got[name]; !found || value != want[name] {
			t.Errorf("%s is %v (there: %t), want %v", name, value, found, want[name])
		}
	}
	for _, name := range slices.Sorted(maps.Keys(got)) {
		if _, wanted := want[name]; !wanted {
			t.Errorf("%s is there, and should not be", name)
		}
	}
}
