package directvolume

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// disk is a file system on an image. A copy of the image is what a power cut would leave: all that the file system has
// written to its disk, and nothing of what is only in memory.
type disk struct {
	t             *testing.T
	fsType, image string
	dir           string // where it is mounted
}

func newDisk(t *testing.T, fsType string) *disk {
	t.Helper()
	d := &disk{t: t, fsType: fsType, image: filepath.Join(t.TempDir(), "disk.img")}
	must(t, os.WriteFile(d.image, nil, 0o600))
	must(t, os.Truncate(d.image, 512<<20))
	command(t, "mkfs."+fsType, "-q", d.image)
	d.dir = d.mount(d.image)
	return d
}

func (d *disk) mount(image string) string {
	d.t.Helper()
	point, options := d.t.TempDir(), "loop"
	if d.fsType == "xfs" {
		options += ",nouuid" // the copy is mounted beside the original
	} else {
		options += ",commit=300" // seconds; only the test commits, however long it takes
	}
	command(d.t, "mount", "-o", options, image, point)
	d.t.Cleanup(func() { command(d.t, "umount", point) })
	return point
}

// commit makes the file system write its journal, as it does by itself every few seconds: all names that have been
// given until now are then on the disk, and of the files' contents only what has been synced.
func (d *disk) commit() {
	d.t.Helper()
	f, err := os.OpenFile(filepath.Join(d.dir, "other"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	must(d.t, err)
	_, err = f.WriteString("x")
	must(d.t, errors.Join(err, f.Sync(), f.Close()))
}

// afterPowerCut returns a folder as it would be found if the power were cut now.
func (d *disk) afterPowerCut(dir string) string {
	d.t.Helper()
	below, err := filepath.Rel(d.dir, dir)
	must(d.t, err)
	copied := filepath.Join(d.t.TempDir(), "copy.img")
	command(d.t, "cp", "--sparse=always", d.image, copied)
	return filepath.Join(d.mount(copied), below)
}

func command(t *testing.T, name string, args ...string) {
	t.Helper()
	if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
		t.Fatalf("%s %q: %v: %s", name, args, err, out)
	}
}

// Decision 3: nobody may ever find a torn record, for Kata's runtimes share the folder in its stead. When a record comes
// and goes nothing waits for the disk, so after a power cut it may be there or not, but never in part.
func TestAfterAPowerCutARecordIsWholeOrAbsent(t *testing.T) {
	for _, fsType := range []string{"ext4", "xfs", "btrfs"} {
		t.Run(fsType, func(t *testing.T) {
			afterAPowerCutARecordIsWholeOrAbsent(t, fsType, host.store)
		})
		t.Run(fsType+", with folders emptied beside", func(t *testing.T) {
			afterAPowerCutARecordIsWholeOrAbsent(t, fsType, func(h host) *Store {
				store := h.storeWithBackground()
				t.Cleanup(store.Close) // before the file system goes
				return store
			})
		})
	}
}

func afterAPowerCutARecordIsWholeOrAbsent(t *testing.T, fsType string, open func(host) *Store) {
	d := newDisk(t, fsType)
	h := host{dir: d.dir}
	store := open(h)
	devices := map[string]string{}
	for i := range 20 {
		path := fmt.Sprintf("/v%d", i)
		devices[path] = h.device(t, fmt.Sprintf("disk%d", i))
		must(t, store.Add(t.Context(), path, h.record(devices[path])))
	}
	d.commit()
	// Claimed ones are replaced in their place.
	h.alive(t, "s1")
	for _, path := range []string{"/v1", "/v2"} {
		_, err := store.Claim(t.Context(), path, "s1")
		must(t, err)
		grown := h.record(devices[path])
		grown.Metadata = map[string]string{MetadataSizeBytes: "2147483648"}
		must(t, store.Add(t.Context(), path, grown))
	}
	must(t, store.Add(t.Context(), "/v3", h.record(devices["/v3"]))) // exchanged
	must(t, store.Remove(t.Context(), "/v4"))
	d.commit()
	after := host{dir: filepath.Dir(d.afterPowerCut(h.root()))}
	entries, err := after.store().List(t.Context())
	must(t, err)
	for _, e := range entries {
		if e.Err != nil || e.Record.Device != devices[e.VolumePath] {
			t.Errorf("after the power cut %s is %+v", e.VolumePath, e)
		}
	}
	if len(entries) < 19 { // else this test has seen nothing
		t.Errorf("after the power cut there are %d records: the journal was not written", len(entries))
	}
}

// The other side of not waiting: what was removed may be back. It says of which boot it is, and is removed again.
func TestWhatAPowerCutBringsBackIsRemovedInTheNextBoot(t *testing.T) {
	for _, fsType := range []string{"ext4", "xfs", "btrfs"} {
		t.Run(fsType, func(t *testing.T) {
			d := newDisk(t, fsType)
			h := host{dir: d.dir}
			store := h.storeOfBoot("before")
			must(t, store.Add(t.Context(), "/v", h.record("/dev/sdf")))
			d.commit()
			must(t, store.Remove(t.Context(), "/v"))
			after := host{dir: filepath.Dir(d.afterPowerCut(h.root()))}
			if _, err := after.store().Get(t.Context(), "/v"); err != nil {
				t.Fatalf("the power cut has not brought the record back, so this test shows nothing: %v", err)
			}
			now := after.storeOfBoot("now")
			if removed, err := now.RemoveEarlierBoots(t.Context()); err != nil || len(removed) != 1 {
				t.Fatalf("removed %q, %v", removed, err)
			}
			if names := after.rootNames(t); len(names) > 0 {
				t.Fatalf("left over: %q", names)
			}
		})
	}
}
