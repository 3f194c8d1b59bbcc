package pool

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"golang.org/x/sys/unix"
)

// disk is a file system on an image, of which a copy at any moment is what a power cut would leave: all that the file
// system has written to its disk, and nothing of what is only in memory.
type disk struct {
	t           *testing.T
	fsType      string
	image, pool string // image file, and the pool's folder on it
}

func newDisk(t *testing.T, fsType string) *disk {
	t.Helper()
	d := &disk{t: t, fsType: fsType, image: filepath.Join(t.TempDir(), "disk.img")}
	write(t, d.image, "")
	if err := os.Truncate(d.image, gib); err != nil {
		t.Fatal(err)
	}
	command(t, "mkfs."+fsType, "-q", d.image)
	d.pool = d.mount(d.image)
	return d
}

func (d *disk) mount(image string) string {
	d.t.Helper()
	mountPoint := d.t.TempDir()
	options := "loop"
	if d.fsType == "xfs" {
		options += ",nouuid" // the copy is mounted beside the original
	}
	command(d.t, "mount", "-o", options, image, mountPoint)
	d.t.Cleanup(func() { command(d.t, "umount", mountPoint) })
	if err := os.Chmod(mountPoint, 0o700); err != nil {
		d.t.Fatal(err)
	}
	return mountPoint
}

// afterPowerCut opens the pool as it would be found if the power were cut now.
func (d *disk) afterPowerCut() *Pool {
	d.t.Helper()
	copied := filepath.Join(d.t.TempDir(), "copy.img")
	command(d.t, "cp", "--sparse=always", d.image, copied)
	return open(d.t, d.mount(copied))
}

func TestWhatWasAnsweredSurvivesAPowerCut(t *testing.T) {
	for _, fsType := range []string{"ext4", "xfs"} {
		t.Run(fsType, func(t *testing.T) {
			d := newDisk(t, fsType)
			p := open(t, d.pool)
			want := map[string]Volume{}
			var mu sync.Mutex
			var all sync.WaitGroup
			for i := range 8 {
				all.Go(func() {
					for j := range 2 {
						v, err := p.Create(t.Context(), ext4Spec(fmt.Sprintf("pvc-%d-%d", i, j), 16*mib+int64(i)*alignBytes))
						if err != nil {
							t.Error(err)
							return
						}
						mu.Lock()
						want[v.ID] = v
						mu.Unlock()
					}
				})
			}
			all.Wait()
			same(t, d.afterPowerCut(), want)

			for id, v := range want {
				grown, err := p.Grow(t.Context(), id, SizeRange{RequiredBytes: v.SizeBytes + mib})
				if err != nil {
					t.Fatal(err)
				}
				if err := p.Attach(t.Context(), id, true, 0); err != nil {
					t.Fatal(err)
				}
				want[id] = grown
				break
			}
			for id := range want {
				if _, attached := p.Attached(id); !attached {
					if err := p.Delete(t.Context(), id); err != nil {
						t.Fatal(err)
					}
					delete(want, id)
					break
				}
			}
			after := d.afterPowerCut()
			same(t, after, want)
			for id := range want {
				_, is := p.Attached(id)
				if _, was := after.Attached(id); is != was {
					t.Errorf("%s is attached: %t; after the power cut: %t", id, is, was)
				}
			}
		})
	}
}

// A driver that is killed when it has made the files of a volume, and has made nothing durable yet, leaves a volume that
// the next driver finds whole. When that one says so to the repeated call, it has to be true after a power cut, too.
func TestAVolumeThatAKilledDriverMadeIsDurableOnceItIsAnswered(t *testing.T) {
	for _, fsType := range []string{"ext4", "xfs"} {
		t.Run(fsType, func(t *testing.T) {
			d := newDisk(t, fsType)
			id := makeID(testNode, "pvc")
			root, err := os.Open(d.pool)
			if err != nil {
				t.Fatal(err)
			}
			defer root.Close()
			if err := unix.Mkdirat(int(root.Fd()), id, dirMode); err != nil {
				t.Fatal(err)
			}
			files, err := makeFiles(root, id, []byte(`{"version":1,"name":"pvc","fstype":"ext4"}`+"\n"), 20*mib)
			for _, f := range files {
				err = errors.Join(err, f.Close())
			}
			if err != nil {
				t.Fatal(err)
			}
			p := open(t, d.pool)
			v, err := p.Create(t.Context(), ext4Spec("pvc", 20*mib))
			if err != nil {
				t.Fatal(err)
			}
			same(t, d.afterPowerCut(), map[string]Volume{id: v})

			// The same when it was growing.
			closePool(t, p)
			if err := os.Truncate(v.ImagePath, 24*mib); err != nil {
				t.Fatal(err)
			}
			v, err = open(t, d.pool).Grow(t.Context(), id, SizeRange{RequiredBytes: 24 * mib})
			if err != nil {
				t.Fatal(err)
			}
			same(t, d.afterPowerCut(), map[string]Volume{id: v})
		})
	}
}

// same checks that the pool has exactly these volumes.
func same(t *testing.T, p *Pool, want map[string]Volume) {
	t.Helper()
	for id, v := range want {
		got, err := p.Get(t.Context(), id)
		if err != nil || got.SizeBytes != v.SizeBytes || got.Name != v.Name || got.FSType != v.FSType {
			t.Errorf("after the power cut %s is %+v, %v; it was %+v", id, got, err, v)
		}
	}
	if got := p.List(t.Context()); len(got) != len(want) {
		t.Errorf("after the power cut there are %d volumes, not %d", len(got), len(want))
	}
}
