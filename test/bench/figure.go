package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"slices"
	"text/tabwriter"
)

// Figure is one measured figure with its floor, as out/bench.json has it. Programs read it: fields are added, never
// renamed.
type Figure struct {
	Name string `json:"name"`
	What string `json:"what"`
	// Value and Floor are medians, in Unit, of runs that took turns.
	Value float64 `json:"value"`
	Unit  string  `json:"unit"`
	Floor float64 `json:"floor"`
	// Ratio is Value/Floor.
	Ratio  float64 `json:"ratio"`
	Target string  `json:"target"`
	Met    bool    `json:"met"`
	Runs   int     `json:"runs"`
	// Accel is what machines ran on, "kvm" or "tcg", or "none" where no machine is part of the figure.
	Accel string `json:"accel"`
}

// Report is the whole of out/bench.json.
type Report struct {
	Figures []Figure `json:"figures"`
}

// samples are the single runs of one figure and its floor.
type samples struct {
	value, floor []float64
}

func (s *samples) add(value, floor float64) {
	s.value = append(s.value, value)
	s.floor = append(s.floor, floor)
}

// target is what a figure is to reach.
type target struct {
	text string
	met  func(value, ratio float64) bool
}

func ratioAtMost(limit float64) target {
	return target{fmt.Sprintf("ratio <= %g", limit), func(_, ratio float64) bool { return ratio <= limit }}
}

func ratioAtLeast(limit float64) target {
	return target{fmt.Sprintf("ratio >= %g", limit), func(_, ratio float64) bool { return ratio >= limit }}
}

func valueAtMost(limit float64) target {
	return target{fmt.Sprintf("value <= %g", limit), func(value, _ float64) bool { return value <= limit }}
}

func valueAtLeast(limit float64) target {
	return target{fmt.Sprintf("value >= %g", limit), func(value, _ float64) bool { return value >= limit }}
}

// noTarget is for a figure that is there to compare others with.
func noTarget() target { return target{"none", func(_, _ float64) bool { return true }} }

// figure makes the medians and holds them against the target.
func (s *samples) figure(name, what, unit string, t target, accel string) Figure {
	f := Figure{
		Name: name, What: what, Unit: unit, Target: t.text, Accel: accel, Runs: len(s.value),
		Value: round(median(s.value)), Floor: round(median(s.floor)),
	}
	if f.Floor > 0 {
		f.Ratio = round(f.Value / f.Floor)
	}
	f.Met = t.met(f.Value, f.Ratio)
	return f
}

// median of at least one sample.
func median(samples []float64) float64 {
	s := slices.Sorted(slices.Values(samples))
	if len(s)%2 == 1 {
		return s[len(s)/2]
	}
	return (s[len(s)/2-1] + s[len(s)/2]) / 2
}

// round keeps three digits behind the point: more would be noise.
func round(x float64) float64 { return math.Round(x*1000) / 1000 }

// Write writes the report as JSON.
func (r *Report) Write(file string) error {
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		return err
	}
	var data bytes.Buffer
	enc := json.NewEncoder(&data)
	enc.SetEscapeHTML(false) // targets have "<" in them
	enc.SetIndent("", "  ")
	if err := enc.Encode(r); err != nil {
		return err
	}
	return os.WriteFile(file, data.Bytes(), 0o644)
}

// Table writes the report for a person.
func (r *Report) Table(out io.Writer) {
	t := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "figure\tmeasured\tfloor\tratio\ttarget\tmet\truns\taccel")
	for _, f := range r.Figures {
		met := "yes"
		switch {
		case f.Target == noTarget().text:
			met = "-"
		case !f.Met:
			met = "NO"
		}
		fmt.Fprintf(t, "%s\t%s\t%s\t%.2f\t%s\t%s\t%d\t%s\n",
			f.Name, quantity(f.Value, f.Unit), quantity(f.Floor, f.Unit), f.Ratio, f.Target, met, f.Runs, f.Accel)
	}
	_ = t.Flush()
	r.verdict(out)
	for _, f := range r.Figures {
		fmt.Fprintf(out, "  %s: %s\n", f.Name, f.What)
	}
}

// verdict says how many of the targets are met, and which are not.
func (r *Report) verdict(out io.Writer) {
	var targets, met int
	var missed []string
	for _, f := range r.Figures {
		switch {
		case f.Target == noTarget().text:
			continue
		case f.Met:
			met++
		default:
			missed = append(missed, fmt.Sprintf("%s (%s, is %s, %.2f times its floor)", f.Name, f.Target, quantity(f.Value, f.Unit), f.Ratio))
		}
		targets++
	}
	fmt.Fprintf(out, "%d of %d targets met\n", met, targets)
	for _, m := range missed {
		fmt.Fprintln(out, "MISSED:", m)
	}
}

// quantity writes a number with as many digits as mean something.
func quantity(x float64, unit string) string {
	switch {
	case x >= 100:
		return fmt.Sprintf("%.0f %s", x, unit)
	case x >= 10:
		return fmt.Sprintf("%.1f %s", x, unit)
	default:
		return fmt.Sprintf("%.2f %s", x, unit)
	}
}
