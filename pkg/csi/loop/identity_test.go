package loop

import (
	"context"
	"os"
	"path/filepath"
	"testing"
)

// As on nodes that are containers of one host: each has a pool, all have the same path.
func TestDevicesOfAnotherPoolOfTheSamePathAreLeftAlone(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "pool")
	must(t, os.Mkdir(dir, 0o700))
	first := newPlace(t, dir)
	device := first.attach(first.image("volume", mib))

	must(t, os.Rename(dir, dir+"-of-another-node"))
	must(t, os.Mkdir(dir, 0o700))
	second := New(dir, nil)
	must(t, second.Sweep(context.Background(), func(string) bool { return false }))
	if found, err := first.Find(t.Context(), filepath.Join(dir+"-of-another-node", "volume", "disk.img")); err != nil || found != device {
		t.Errorf("%+v, %v; want %+v", found, err, device)
	}
}
