package pool

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/katadirect/katadirect/pkg/directvolume"
)

func TestLimitsAreKeptWithTheVolumeAndGoWithIt(t *testing.T) {
	dir := t.TempDir()
	p := open(t, dir)
	v := create(t, p, "v", 16*mib)
	if l, err := p.Limits(t.Context(), v.ID); err != nil || l != (Limits{}) {
		t.Errorf("a new volume has %+v, %v", l, err)
	}
	want := Limits{Limits: directvolume.Limits{IOPS: 100, BytesPerSecond: 1 << 20}, Class: "gold"}
	for _, l := range []Limits{{Class: "iron"}, want} {
		if err := p.SetLimits(t.Context(), v.ID, l); err != nil {
			t.Fatal(err)
		}
	}
	write(t, filepath.Join(dir, v.ID, limitsDraft), `{"iops":`) // a crash in the next change
	closePool(t, p)
	p = open(t, dir)
	if l, err := p.Limits(t.Context(), v.ID); err != nil || l != want {
		t.Errorf("after a restart %+v, %v", l, err)
	}
	if err := p.Delete(t.Context(), v.ID); err != nil {
		t.Fatal(err)
	}
	if left := entries(t, dir); len(left) != 0 {
		t.Errorf("left is %v", left)
	}
	if _, err := p.Limits(t.Context(), v.ID); !errors.Is(err, ErrNotFound) {
		t.Errorf("of a deleted volume: %v", err)
	}
	if err := p.SetLimits(t.Context(), v.ID, want); !errors.Is(err, ErrNotFound) {
		t.Errorf("for a deleted volume: %v", err)
	}
}

func TestLimitsThatCannotBeReadAreNotTakenForNone(t *testing.T) {
	dir := t.TempDir()
	p := open(t, dir)
	v := create(t, p, "v", 16*mib)
	path := filepath.Join(dir, v.ID, limitsName)
	for name, content := range map[string]string{
		"empty": "", "torn": `{"iops":1`, "no sense": `{"iops":100,"readIops":100}`, "zeros": "\x00\x00",
		"huge": `{"class":"` + strings.Repeat("x", int(maxLimitsBytes)) + `"}`, "negative": `{"iops":-1}`,
	} {
		write(t, path, content)
		if l, err := p.Limits(t.Context(), v.ID); !errors.Is(err, ErrDamaged) || !strings.Contains(err.Error(), limitsName) {
			t.Errorf("%s: %+v, %v", name, l, err)
		}
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	outside := filepath.Join(t.TempDir(), "outside")
	write(t, outside, `{"iops":100}`)
	if err := os.Symlink(outside, path); err != nil {
		t.Fatal(err)
	}
	if l, err := p.Limits(t.Context(), v.ID); err == nil {
		t.Errorf("a link led to %+v", l)
	}
	if err := p.SetLimits(t.Context(), v.ID, Limits{Limits: directvolume.Limits{IOPS: 20}}); err != nil {
		t.Fatal(err)
	}
	if data, err := os.ReadFile(outside); err != nil || string(data) != `{"iops":100}` {
		t.Errorf("what the link led to is now %q, %v", data, err)
	}
	if l, err := p.Limits(t.Context(), v.ID); err != nil || l.IOPS != 20 {
		t.Errorf("%+v, %v", l, err)
	}
	if err := p.SetLimits(t.Context(), v.ID, Limits{Limits: directvolume.Limits{IOPS: 1}}); !errors.Is(err, ErrInvalidSpec) {
		t.Errorf("limits that make no sense: %v", err)
	}
}

func FuzzParseLimits(f *testing.F) {
	f.Add([]byte(`{"iops":100,"class":"gold"}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		if l, err := parseLimits(data); err == nil && l.Validate() != nil {
			t.Errorf("%q became %+v", data, l)
		}
	})
}
