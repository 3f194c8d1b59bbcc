package main

import (
	"fmt"
	"io"
	"math"
	"text/tabwriter"

	"github.com/katadirect/katadirect/test/bench/figures"
)

// What out/bench.json has, other suites write, too.
type (
	Figure = figures.Figure
	Report = figures.Report
)

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
func noTarget() target { return target{figures.NoTarget, func(_, _ float64) bool { return true }} }

// figure makes the medians and holds them against the target.
func (s *samples) figure(name, what, unit string, t target, accel string) Figure {
	f := Figure{
		Name: name, What: what, Unit: unit, Target: t.text, Accel: accel, Runs: len(s.value),
		Value: round(figures.Median(s.value)), Floor: round(figures.Median(s.floor)),
	}
	if f.Floor > 0 {
		f.Ratio = round(f.Value / f.Floor)
	}
	f.Met = t.met(f.Value, f.Ratio)
	return f
}

// round keeps three digits behind the point: more would be noise.
func round(x float64) float64 { return math.Round(x*1000) / 1000 }

// table writes the report for a person.
func table(out io.Writer, r *Report) {
	t := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "figure\tmeasured\tfloor\tratio\ttarget\tmet\truns\taccel")
	for _, f := range r.Figures {
		met := "yes"
		switch {
		case f.Target == figures.NoTarget:
			met = "-"
		case !f.Met:
			met = "NO"
		}
		fmt.Fprintf(t, "%s\t%s\t%s\t%.2f\t%s\t%s\t%d\t%s\n",
			f.Name, quantity(f.Value, f.Unit), quantity(f.Floor, f.Unit), f.Ratio, f.Target, met, f.Runs, f.Accel)
	}
	_ = t.Flush()
	verdict(out, r)
	for _, f := range r.Figures {
		fmt.Fprintf(out, "  %s: %s\n", f.Name, f.What)
	}
}

// verdict says how many of the targets are met, and which are not.
func verdict(out io.Writer, r *Report) {
	var targets, met int
	var missed []string
	for _, f := range r.Figures {
		switch {
		case f.Target == figures.NoTarget:
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
