// Package figures is the file of measured figures, out/bench.json: "make bench" begins it, and suites that measure
// something, too, put theirs beside its.
package figures

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
)

// Figure is one measured figure with its floor. Programs read it: fields are added, never renamed.
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

// NoTarget is the target of a figure that is there to compare others with.
const NoTarget = "none"

// Report is the whole of the file.
type Report struct {
	Figures []Figure `json:"figures"`
}

// Read reads a file. One that is not there has no figures.
func Read(file string) (*Report, error) {
	r := &Report{}
	raw, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return r, nil
	}
	if err == nil {
		err = json.Unmarshal(raw, r)
	}
	if err != nil {
		return nil, fmt.Errorf("figures of %s: %w", file, err)
	}
	return r, nil
}

// Put puts figures in place of those of the same names, or at the end.
func (r *Report) Put(all ...Figure) {
	for _, f := range all {
		if i := slices.IndexFunc(r.Figures, func(old Figure) bool { return old.Name == f.Name }); i >= 0 {
			r.Figures[i] = f
		} else {
			r.Figures = append(r.Figures, f)
		}
	}
}

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

// Median of at least one sample.
func Median(samples []float64) float64 {
	s := slices.Sorted(slices.Values(samples))
	if len(s)%2 == 1 {
		return s[len(s)/2]
	}
	return (s[len(s)/2-1] + s[len(s)/2]) / 2
}
