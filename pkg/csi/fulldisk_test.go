package csi

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// A node whose every file is on one small file system: the pool, records, staged state and kubelet's folders. It is
// filled so that the disk is full at each step of a volume's life in turn. A call that meets the full disk says so, and
// takes back what it has made; what makes room always works; and when there is room the same calls succeed.
func TestADiskFullAtAnyStep(t *testing.T) {
	for name, test := range map[string]struct {
		fill func(t *testing.T, dir string, left int) (free func())
		made bool // the volume is there before the disk is full: of bytes the pool keeps account itself
		want []string
	}{
		"of files": {fillInodes, false, []string{"create", "attach", "stage", "publish", "expand"}},
		"of bytes": {fillBytes, true, []string{"stage", "publish", "expand"}},
	} {
		t.Run("full "+name, func(t *testing.T) {
			h := &host{t: t, dir: smallDisk(t, 64<<20, 200), log: &bytes.Buffer{}}
			h.start()
			t.Cleanup(func() { h.stop() })
			h.driver.observer.records.store.Close() // what it does beside would take of what is left, now and then
			h.live(-1, false)                       // folders that are made at the first use
			before := h.everything()
			var met []string
			for left := 0; ; left++ {
				if left > 100 {
					t.Fatal("a volume's life takes more than a hundred of what was left")
				}
				if test.made {
					_, err := h.CreateVolume(t.Context(), createRequest(fmt.Sprint("pvc-", left), 16<<20))
					must(t, err)
				}
				free := test.fill(t, h.dir, left)
				failed := h.live(left, test.made)
				free()
				if after := h.everything(); after != before {
					t.Fatalf("with %d left, failing at %q, this was left behind:\n%s\nbefore it was:\n%s", left, failed, after, before)
				}
				if failed := h.live(left, false); failed != "" { // there is room again
					t.Fatalf("after %d were left, with room again, %s failed", left, failed)
				}
				if failed != "" && !slices.Contains(met, failed) {
					met = append(met, failed)
				}
				if failed == "" || test.made && failed == "expand" { // for that many bytes more are needed than one wants to count
					break
				}
			}
			if !slices.Equal(met, test.want) {
				t.Errorf("the disk was full at %v, want %v", met, test.want)
			}
		})
	}
}

// live takes a volume through its life, and returns the name of the first step that failed for lack of space, "" for
// none. made says that the first step is done already. What was done till then is taken back, which must not fail.
func (h *host) live(n int, made bool) (failed string) {
	h.t.Helper()
	target := h.target("pod")
	request := createRequest(fmt.Sprint("pvc-", n), 16<<20)
	v := volume{h: h, id: h.driver.pool.ID(request.GetName()), cap: capability()}
	for _, step := range []struct {
		name string
		do   func() error
	}{
		{"create", func() error { _, err := h.CreateVolume(h.t.Context(), request); return err }},
		{"attach", func() error { return v.attach("node-1", false) }},
		{"stage", v.stage},
		{"publish", func() error { return v.publish(target) }},
		{"expand", func() error { _, err := v.expand(h.t.Context(), target, 17<<20); return err }},
	} {
		if step.name == "create" && made {
			continue
		}
		if err := step.do(); err != nil {
			if status.Code(err) != codes.ResourceExhausted {
				h.t.Errorf("%s on a full disk: %v", step.name, err)
			}
			failed = step.name
			break
		}
	}
	for _, step := range []struct {
		name string
		do   func() error
	}{
		{"unpublish", func() error { return v.unpublish(target) }},
		{"unstage", v.unstage},
		{"detach", func() error { return v.detach("node-1") }},
		{"delete", v.delete},
	} {
		if err := step.do(); err != nil {
			h.t.Errorf("%s after %s had failed on a full disk: %v", step.name, failed, err)
		}
	}
	return failed
}

// everything lists all files of the host.
func (h *host) everything() string {
	h.t.Helper()
	var all []string
	must(h.t, filepath.WalkDir(h.dir, func(path string, _ os.DirEntry, err error) error {
		all = append(all, strings.TrimPrefix(path, h.dir))
		return err
	}))
	return strings.Join(all, "\n")
}

// smallDisk mounts a file system that holds so much and so many.
func smallDisk(t *testing.T, sizeBytes, inodes int) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "kd") // sockets have short paths
	must(t, err)
	t.Cleanup(func() { os.RemoveAll(dir) })
	out, err := exec.Command("mount", "-t", "tmpfs", "-o", fmt.Sprintf("mode=0700,size=%d,nr_inodes=%d", sizeBytes, inodes), "tmpfs", dir).CombinedOutput()
	if err != nil {
		t.Fatalf("mount: %v: %s", err, out)
	}
	t.Cleanup(func() {
		if out, err := exec.Command("umount", dir).CombinedOutput(); err != nil {
			t.Errorf("umount: %v: %s", err, out)
		}
	})
	return dir
}

// fillInodes takes all but so many files that the disk has room for.
func fillInodes(t *testing.T, dir string, left int) (free func()) {
	t.Helper()
	var fs unix.Statfs_t
	must(t, unix.Statfs(dir, &fs))
	filler := filepath.Join(dir, "filler")
	must(t, os.Mkdir(filler, 0o700))
	for i := range int(fs.Ffree) - 1 - left {
		must(t, os.WriteFile(filepath.Join(filler, fmt.Sprint(i)), nil, 0o600))
	}
	return func() { must(t, os.RemoveAll(filler)) }
}

// fillBytes takes all but so many blocks.
func fillBytes(t *testing.T, dir string, left int) (free func()) {
	t.Helper()
	var fs unix.Statfs_t
	must(t, unix.Statfs(dir, &fs))
	filler := filepath.Join(dir, "filler")
	data := make([]byte, max(0, int(fs.Bavail)-left)*int(fs.Bsize))
	if err := os.WriteFile(filler, data, 0o600); err != nil && !errors.Is(err, unix.ENOSPC) {
		t.Fatal(err)
	}
	return func() { must(t, os.Remove(filler)) }
}
