package figures

import (
	"os"
	"path/filepath"
	"slices"
	"testing"
)

func TestFiguresTakeThePlaceOfThoseOfTheirNames(t *testing.T) {
	file := filepath.Join(t.TempDir(), "out", "bench.json")
	for _, put := range [][]Figure{
		{{Name: "one", Value: 1}, {Name: "two", Value: 2}},
		{{Name: "three", Target: "ratio <= 2"}, {Name: "one", Value: 7}},
	} {
		r, err := Read(file)
		if err != nil {
			t.Fatal(err)
		}
		r.Put(put...)
		if err := r.Write(file); err != nil {
			t.Fatal(err)
		}
	}
	r, err := Read(file)
	want := []Figure{{Name: "one", Value: 7}, {Name: "two", Value: 2}, {Name: "three", Target: "ratio <= 2"}}
	if err != nil || !slices.Equal(r.Figures, want) {
		t.Errorf("%+v, %v", r, err)
	}
	if err := os.WriteFile(file, []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Read(file); err == nil {
		t.Error("half a file is read")
	}
}

func TestTheMedianIsInTheMiddle(t *testing.T) {
	for _, c := range []struct {
		samples []float64
		want    float64
	}{{[]float64{3}, 3}, {[]float64{9, 1, 2}, 2}, {[]float64{4, 1, 2, 9}, 3}} {
		if got := Median(c.samples); got != c.want {
			t.Errorf("of %v: %v", c.samples, got)
		}
	}
}
