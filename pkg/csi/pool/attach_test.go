package pool

import (
	"os"
	"path/filepath"
	"testing"
)

func TestAVolumeWhoseFolderIsGoneIsDetached(t *testing.T) {
	dir := t.TempDir()
	p := open(t, dir)
	v := create(t, p, "v", 16*mib)
	if err := p.Attach(t.Context(), v.ID, false, 0); err != nil {
		t.Fatal(err)
	}
	if err := os.RemoveAll(filepath.Dir(v.ImagePath)); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := p.Detach(t.Context(), v.ID); err != nil {
			t.Error(err)
		}
	}
	if _, attached := p.Attached(v.ID); attached {
		t.Error("it is still attached")
	}
}
