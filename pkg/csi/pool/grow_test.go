package pool

import (
	"errors"
	"os"
	"testing"
)

func TestGrowEnlargesTheImageAndKeepsItsData(t *testing.T) {
	p := open(t, t.TempDir())
	v := create(t, p, "pvc", gib)
	writeImage(t, v, "marker")
	grown, err := p.Grow(t.Context(), v.ID, SizeRange{RequiredBytes: 2*gib + 1})
	if err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(v.ImagePath)
	if err != nil {
		t.Fatal(err)
	}
	if want := 2*gib + alignBytes; info.Size() != want || grown.SizeBytes != want {
		t.Errorf("image has %d bytes, volume says %d, want %d", info.Size(), grown.SizeBytes, want)
	}
	if got := readImage(t, v, 6); got != "marker" {
		t.Errorf("volume holds %q after growing", got)
	}
	if got, want := p.space.booked(), costBytes(grown.SizeBytes); got != want {
		t.Errorf("%d bytes are promised, want %d", got, want)
	}
}

func TestGrowNeverShrinks(t *testing.T) {
	p := open(t, t.TempDir())
	v := create(t, p, "pvc", 2*gib)
	tests := map[string]struct {
		size SizeRange
		want error
	}{
		"nothing said":     {SizeRange{}, nil},
		"less":             {SizeRange{RequiredBytes: gib}, nil},
		"the same":         {SizeRange{RequiredBytes: 2 * gib}, nil},
		"a smaller limit":  {SizeRange{LimitBytes: gib}, ErrOutOfRange},
		"negative":         {SizeRange{RequiredBytes: -gib}, ErrInvalidSpec},
		"more than fits":   {SizeRange{RequiredBytes: 15 * tib}, ErrNoSpace},
		"more than can be": {SizeRange{RequiredBytes: 17 * tib}, ErrOutOfRange},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			_, err := p.Grow(t.Context(), v.ID, test.size)
			if !errors.Is(err, test.want) {
				t.Errorf("grow: %v, want %v", err, test.want)
			}
			if _, checkErr := p.CheckGrow(t.Context(), v.ID, test.size); !errors.Is(checkErr, test.want) {
				t.Errorf("check: %v, want %v", checkErr, test.want)
			}
			info, err := os.Stat(v.ImagePath)
			if err != nil || info.Size() != 2*gib {
				t.Errorf("image has %d bytes, %v", info.Size(), err)
			}
			if got, want := p.space.booked(), costBytes(2*gib); got != want {
				t.Errorf("%d bytes are promised, want %d", got, want)
			}
		})
	}
}

// A machine's resize may have grown the file already; the index must not take that back.
func TestGrowDoesNotCutAnImageThatIsLargerThanKnown(t *testing.T) {
	p := open(t, t.TempDir())
	v := create(t, p, "pvc", gib)
	if err := os.Truncate(v.ImagePath, 4*gib); err != nil {
		t.Fatal(err)
	}
	if _, err := p.Grow(t.Context(), v.ID, SizeRange{RequiredBytes: 2 * gib}); !errors.Is(err, ErrOutOfRange) {
		t.Errorf("got %v, want %v", err, ErrOutOfRange)
	}
	if info, err := os.Stat(v.ImagePath); err != nil || info.Size() != 4*gib {
		t.Errorf("image has %d bytes, %v", info.Size(), err)
	}
}
