package guest

import (
	"os"
	"path/filepath"
	"slices"
	"testing"
)

func TestAContainersCopiesGoWithItAndNothingElse(t *testing.T) {
	base := t.TempDir()
	for _, name := range []string{
		"c1-0123456789abcdef-hosts", "c1-0123456789abcdef-..", "c1x-0123456789abcdef-hosts", "c1-x-0123456789abcdef-hosts",
		"c1", "c1-0123456789abcde-hosts", "watchable",
	} {
		if err := os.MkdirAll(filepath.Join(base, name, "inside"), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for range 2 {
		if err := removeCopies(base, "c1"); err != nil {
			t.Fatal(err)
		}
	}
	entries, err := os.ReadDir(base)
	if err != nil {
		t.Fatal(err)
	}
	var left []string
	for _, e := range entries {
		left = append(left, e.Name())
	}
	if want := []string{"c1", "c1-0123456789abcde-hosts", "c1-x-0123456789abcdef-hosts", "c1x-0123456789abcdef-hosts", "watchable"}; !slices.Equal(left, want) {
		t.Errorf("left %q, want %q", left, want)
	}
	if err := removeCopies(filepath.Join(base, "none"), "c1"); err != nil {
		t.Error(err)
	}
}
