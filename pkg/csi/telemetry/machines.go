package telemetry

import (
	"bytes"
	"context"
	"log/slog"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
	"golang.org/x/sync/singleflight"
	"google.golang.org/protobuf/proto"
)

// MachinesPath is where the metrics of the machines are that have volumes: those of their shims, under Kata's names, and with
// the labels that Kata's monitor gives them.
const MachinesPath = "/metrics/machines"

// Bounds on a scrape of the machines. Most of what they tell comes from guests.
const (
	machinesTimeout   = 9 * time.Second // Prometheus gives up after ten
	machinesAtOnce    = 8
	maxMachines       = 256
	maxMachineSamples = 2000 // of one machine; what is over is left out
)

// Machine is one that has volumes, and how to ask its shim for metrics in Prometheus' text format.
type Machine struct {
	Sandbox        string
	Namespace, Pod string // "" if nobody has said
	Metrics        func(context.Context) ([]byte, error)
}

// MachineSource says which machines there are.
type MachineSource interface {
	Machines(context.Context) ([]Machine, error)
}

// Machines answers MachinesPath. Scrapes that come at once share one answer.
func Machines(from MachineSource, log *slog.Logger) http.Handler {
	var scrapes singleflight.Group
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		text, err, _ := scrapes.Do("", func() (any, error) {
			ctx, cancel := context.WithTimeout(context.Background(), machinesTimeout)
			defer cancel()
			all, err := from.Machines(ctx)
			if err != nil {
				log.WarnContext(ctx, "the machines could not be found", "error", err)
				return nil, err
			}
			return scrapeMachines(ctx, all[:min(len(all), maxMachines)])
		})
		if err != nil {
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
			return
		}
		w.Header().Set("Content-Type", string(expfmt.NewFormat(expfmt.TypeTextPlain)))
		_, _ = w.Write(text.([]byte)) // a client that has gone
	})
}

// scrapeMachines asks them all and puts their answers together.
func scrapeMachines(ctx context.Context, all []Machine) ([]byte, error) {
	answers := make([]map[string]*dto.MetricFamily, len(all))
	slots := make(chan struct{}, machinesAtOnce)
	var asking sync.WaitGroup
	for i, m := range all {
		asking.Go(func() {
			slots <- struct{}{}
			defer func() { <-slots }()
			if text, err := m.Metrics(ctx); err == nil {
				answers[i] = parse(text)
			}
		})
	}
	asking.Wait()
	up := &dto.MetricFamily{
		Name: proto.String("katadirect_machine_up"), Type: dto.MetricType_GAUGE.Enum(),
		Help: proto.String("Whether the machine's shim has told its metrics: 1, or 0."),
	}
	merged := map[string]*dto.MetricFamily{up.GetName(): up}
	types := typesOf(answers)
	for i, m := range all {
		labels := m.labels()
		up.Metric = append(up.Metric, &dto.Metric{Label: labels, Gauge: &dto.Gauge{Value: proto.Float64(truth(answers[i] != nil))}})
		merge(merged, answers[i], types, labels)
	}
	var text bytes.Buffer
	encoder := expfmt.NewEncoder(&text, expfmt.NewFormat(expfmt.TypeTextPlain))
	for _, name := range slices.Sorted(maps.Keys(merged)) {
		if len(merged[name].Metric) == 0 {
			continue // no family without samples
		}
		if err := encoder.Encode(merged[name]); err != nil {
			return nil, err
		}
	}
	return text.Bytes(), nil
}

// labels are Kata's monitor's.
func (m Machine) labels() []*dto.LabelPair {
	var labels []*dto.LabelPair
	for _, l := range [][2]string{{"sandbox_id", m.Sandbox}, {"cri_namespace", m.Namespace}, {"cri_name", m.Pod}} {
		labels = append(labels, &dto.LabelPair{Name: proto.String(l[0]), Value: proto.String(l[1])})
	}
	return labels
}

// parse is nil for what is not Prometheus' text.
func parse(text []byte) map[string]*dto.MetricFamily {
	parser := expfmt.NewTextParser(model.LegacyValidation)
	families, err := parser.TextToMetricFamilies(bytes.NewReader(text))
	if err != nil {
		return nil
	}
	return families
}

// typesOf is each family's type: that which most machines give it. One guest that lies would hide the others' samples if it
// came first.
func typesOf(answers []map[string]*dto.MetricFamily) map[string]dto.MetricType {
	votes := map[string]map[dto.MetricType]int{}
	for _, answer := range answers {
		for name, family := range answer {
			if votes[name] == nil {
				votes[name] = map[dto.MetricType]int{}
			}
			votes[name][family.GetType()]++
		}
	}
	types := map[string]dto.MetricType{}
	for name, of := range votes {
		types[name] = slices.MaxFunc(slices.Sorted(maps.Keys(of)), func(a, b dto.MetricType) int { return of[a] - of[b] })
	}
	return types
}

// merge adds one machine's families of those types to those of all. A machine cannot speak for the driver or for another
// machine.
func merge(all, of map[string]*dto.MetricFamily, types map[string]dto.MetricType, labels []*dto.LabelPair) {
	left := maxMachineSamples
	for _, name := range slices.Sorted(maps.Keys(of)) {
		if !strings.HasPrefix(name, "kata_") && !strings.HasPrefix(name, "katadirect_") || strings.HasPrefix(name, "katadirect_csi_") ||
			name == "katadirect_machine_up" {
			continue
		}
		if of[name].GetType() != types[name] {
			continue
		}
		family, known := all[name]
		if !known {
			family = &dto.MetricFamily{Name: of[name].Name, Help: of[name].Help, Type: of[name].Type}
			all[name] = family
		}
		for _, metric := range of[name].Metric {
			if left--; left < 0 {
				return
			}
			if !slices.ContainsFunc(metric.Label, func(l *dto.LabelPair) bool { return reserved(l.GetName()) }) {
				metric.Label = append(metric.Label, labels...)
				family.Metric = append(family.Metric, metric)
			}
		}
	}
}

func reserved(label string) bool {
	return label == "sandbox_id" || label == "cri_namespace" || label == "cri_name"
}
