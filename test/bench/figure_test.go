package main

import (
	"encoding/json"
	"encoding/xml"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

func TestAFigureIsTheMedianAgainstItsTarget(t *testing.T) {
	for _, c := range []struct {
		name         string
		value, floor []float64
		target       target
		want         Figure
	}{
		{"odd number of runs", []float64{9, 2, 4}, []float64{2, 100, 1}, ratioAtMost(2), Figure{Value: 4, Floor: 2, Ratio: 2, Met: true}},
		{"even number of runs", []float64{4, 1, 2, 9}, []float64{1, 1, 1, 1}, ratioAtMost(2), Figure{Value: 3, Floor: 1, Ratio: 3}},
		{"a limit on the value", []float64{21}, []float64{10}, valueAtMost(20), Figure{Value: 21, Floor: 10, Ratio: 2.1}},
		{"at least a value", []float64{1500}, []float64{3000}, valueAtLeast(1500), Figure{Value: 1500, Floor: 3000, Ratio: 0.5, Met: true}},
		{"no target", []float64{1}, []float64{0}, noTarget(), Figure{Value: 1, Met: true}},
	} {
		s := samples{c.value, c.floor}
		got := s.figure("n", "w", "ms", c.target, "tcg")
		c.want.Name, c.want.What, c.want.Unit, c.want.Accel = "n", "w", "ms", "tcg"
		c.want.Target, c.want.Runs = c.target.text, len(c.value)
		if got != c.want {
			t.Errorf("%s: %+v, want %+v", c.name, got, c.want)
		}
	}
}

func exampleReport() *Report {
	s := samples{[]float64{40}, []float64{30}}
	rate := samples{[]float64{1502.123}, []float64{1501}}
	return &Report{Figures: []Figure{
		rate.figure("create-16", "c", "/s", valueAtLeast(1500), "none"),
		s.figure("resize", "NodeExpandVolume <call>", "ms", ratioAtMost(2), "tcg"),
		s.figure("memory", "m", "MB", valueAtMost(20), "none"), // missed
	}}
}

func TestTheReportHasTheFieldsThatProgramsRead(t *testing.T) {
	file := filepath.Join(t.TempDir(), "out", "bench.json")
	if err := exampleReport().Write(file); err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var got struct{ Figures []map[string]any }
	if err := json.Unmarshal(data, &got); err != nil {
		t.Fatal(err)
	}
	want := []string{"accel", "floor", "met", "name", "ratio", "runs", "target", "unit", "value", "what"}
	var keys []string
	for k := range got.Figures[0] {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	if !slices.Equal(keys, want) {
		t.Errorf("fields %v, want %v", keys, want)
	}
	if f := got.Figures[1]; f["target"] != "ratio <= 2" || f["met"] != true || f["ratio"] != 1.333 {
		t.Errorf("%v", f)
	}
}

func TestTheDrawingIsWholeAndStaysOnItsCanvas(t *testing.T) {
	type rect struct {
		X     float64 `xml:"x,attr"`
		Y     float64 `xml:"y,attr"`
		Width float64 `xml:"width,attr"`
		Fill  string  `xml:"fill,attr"`
	}
	type label struct {
		X    float64 `xml:"x,attr"`
		Text string  `xml:",chardata"`
	}
	var svg struct {
		Width  string  `xml:"width,attr"`
		Height string  `xml:"height,attr"`
		Rects  []rect  `xml:"rect"`
		Texts  []label `xml:"text"`
	}
	r := exampleReport()
	if err := xml.Unmarshal(drawing(r), &svg); err != nil {
		t.Fatal(err)
	}
	width, _ := strconv.ParseFloat(svg.Width, 64)
	height, _ := strconv.ParseFloat(svg.Height, 64)
	for _, b := range svg.Rects {
		if b.X+b.Width > width || b.Y > height || b.Width <= 0 {
			t.Errorf("%+v does not fit", b)
		}
	}
	words := ""
	for _, l := range svg.Texts {
		const perLetter = 7.2 // at this size, on the wide side
		if l.X+perLetter*float64(len(l.Text)) > width {
			t.Errorf("%q does not fit", l.Text)
		}
		words += l.Text + "\n"
	}
	for _, f := range r.Figures {
		if !strings.Contains(words, f.Name) || !strings.Contains(words, f.Target) {
			t.Errorf("%s is not drawn", f.Name)
		}
	}
	missed := slices.ContainsFunc(svg.Rects, func(b rect) bool { return b.Fill == missedColour && b.Width > 20 })
	if !missed {
		t.Error("a missed target looks like one that was met")
	}
}

func TestOnlyNamesWhatIsMeasured(t *testing.T) {
	got, err := choose("resize,boot")
	if err != nil || len(got) != 2 || got[0].name != "resize" || got[1].name != "boot" {
		t.Errorf("%v, %v", got, err)
	}
	if _, err := choose("speed"); err == nil || !strings.Contains(err.Error(), "hotplug") {
		t.Errorf("error %v", err)
	}
}
