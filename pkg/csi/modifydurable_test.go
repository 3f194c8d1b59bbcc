package csi

import (
	"bytes"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/katadirect/katadirect/pkg/csi/pool"
	"github.com/katadirect/katadirect/pkg/directvolume"
)

// mountImage mounts a file system's image at a new folder with a short path.
func mountImage(t *testing.T, image string) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "kd")
	must(t, err)
	t.Cleanup(func() { os.RemoveAll(dir) })
	if out, err := exec.Command("mount", "-o", "loop", image, dir).CombinedOutput(); err != nil {
		t.Fatalf("mount: %v: %s", err, out)
	}
	t.Cleanup(func() {
		if out, err := exec.Command("umount", dir).CombinedOutput(); err != nil {
			t.Errorf("umount: %v: %s", err, out)
		}
	})
	return dir
}

// A driver that was killed when the limits had their name may have left them in memory only. Whoever answers the
// repeated call, which finds them as they should be, answers for their being there after a power cut.
func TestLimitsThatAKilledDriverSetAreDurableOnceTheyAreAnswered(t *testing.T) {
	disk := filepath.Join(t.TempDir(), "disk.img")
	must(t, os.WriteFile(disk, nil, 0o600))
	must(t, os.Truncate(disk, 256<<20))
	if out, err := exec.Command("mkfs.ext4", "-q", disk).CombinedOutput(); err != nil {
		t.Fatalf("mkfs: %v: %s", err, out)
	}
	h := &host{t: t, dir: mountImage(t, disk), log: &bytes.Buffer{}}
	h.start()
	t.Cleanup(func() { h.stop() })
	_, err := h.CreateVolume(t.Context(), createRequest("pvc", 16<<20))
	must(t, err)
	v := volume{h: h, id: h.driver.pool.ID("pvc"), cap: capability()}

	want := pool.Limits{Limits: directvolume.Limits{IOPS: 500}}
	data, err := json.Marshal(want)
	must(t, err)
	folder := filepath.Dir(v.image())
	draft, err := os.Create(filepath.Join(folder, "limits.json.draft"))
	must(t, err)
	_, err = draft.Write(data)
	must(t, err)
	must(t, draft.Sync())
	must(t, draft.Close())
	must(t, os.Rename(draft.Name(), filepath.Join(folder, "limits.json")))
	must(t, v.modify(map[string]string{"katadirect.io/iops": "500"}))

	copied := filepath.Join(t.TempDir(), "copy.img") // what a power cut would leave
	if out, err := exec.Command("cp", "--sparse=always", disk, copied).CombinedOutput(); err != nil {
		t.Fatalf("cp: %v: %s", err, out)
	}
	left, err := os.ReadFile(filepath.Join(mountImage(t, copied), "pool", v.id, "limits.json"))
	if err != nil || string(left) != string(data) {
		t.Errorf("after a power cut %q, %v", left, err)
	}
}
