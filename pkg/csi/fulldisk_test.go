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
		life func(h *host, name string) fullDiskLife
		// prepared are the first steps, which are done before the disk is full: of bytes the pool keeps account itself.
		prepared int
		want     []string // the steps that met the full disk
	}{
		"of files":                      {fillInodes, directLife, 0, []string{"create", "attach", "stage", "publish", "expand"}},
		"of bytes":                      {fillBytes, directLife, 1, []string{"stage", "publish", "expand"}},
		"of files, copies":              {fillInodes, copiedLife, 1, []string{"snapshot", "group snapshot", "restore", "clone"}},
		"of bytes, copies":              {fillBytes, copiedLife, 1, []string{"snapshot", "restore", "clone"}},
		"of bytes, groups":              {fillBytes, groupLife, 1, []string{"group snapshot"}},
		"of files, limits":              {fillInodes, limitedLife, 3, []string{"modify"}},
		"of bytes, limits":              {fillBytes, limitedLife, 3, []string{"modify"}},
		"of files, formatted":           {fillInodes, formattedLife, 0, []string{"create"}},
		"of files, mounted on the host": {fillInodes, hostLife, 3, []string{"publish"}},
		"of bytes, mounted on the host": {fillBytes, hostLife, 3, []string{"publish"}},
		"of files, raw":                 {fillInodes, rawLife, 1, []string{"stage", "publish"}},
		"of bytes, raw":                 {fillBytes, rawLife, 1, []string{"stage", "publish"}},
		"of files, inline":              {fillInodes, inlineLife, 0, []string{"publish"}},
		"of bytes, inline":              {fillBytes, inlineLife, 0, []string{"publish"}},
		"of files, inline, on the host": {fillInodes, inlineHostLife, 0, []string{"publish"}},
	} {
		t.Run("full "+name, func(t *testing.T) {
			h := newFullDiskHost(t)
			h.live(test.life(h, "first"), 0, nil) // folders that are made at the first use
			before := h.everything()
			var met []string
			for left := 0; ; left += 1 + left/16*8 { // some need more bytes than one wants to count
				life := test.life(h, fmt.Sprint("pvc-", left))
				failed := h.live(life, test.prepared, func() (free func()) { return test.fill(t, h.dir, left) })
				if after := h.everything(); after != before {
					t.Fatalf("with %d left, failing at %q, this was left behind:\n%s\nbefore it was:\n%s", left, failed, after, before)
				}
				h.nothingLeft()
				if failed := h.live(life, 0, nil); failed != "" { // there is room again
					t.Fatalf("after %d were left, with room again, %s failed", left, failed)
				}
				if failed == "" {
					break
				}
				if !slices.Contains(met, failed) {
					met = append(met, failed)
				}
			}
			if !slices.Equal(met, test.want) {
				t.Errorf("the disk was full at %v, want %v", met, test.want)
			}
		})
	}
}

// newFullDiskHost is a host on a small file system, with a Kubernetes that knows of ordinary pods and of machines.
func newFullDiskHost(t *testing.T) *host {
	t.Helper()
	h := &host{t: t, dir: smallDisk(t, 64<<20, 200), log: &bytes.Buffer{}, cluster: newFakeCluster()}
	h.start()
	t.Cleanup(func() {
		h.stop()
		for _, mounted := range h.mountsBelow(h.dir) { // of a test that has failed
			_ = unix.Unmount(mounted, unix.MNT_DETACH)
		}
		h.sweepLoops()
	})
	h.driver.observer.records.store.Close() // what it does beside would take of what is left, now and then
	return h
}

// fullDiskStep is a call, and fullDiskLife those of a volume: what needs room, and then what must work without.
type fullDiskStep struct {
	name string
	do   func() error
}

type fullDiskLife struct{ steps, ends []fullDiskStep }

// live takes a volume through its life, and returns the name of the first step that failed for lack of space, "" for
// none. The disk is filled after the first steps. What was done till then is taken back, which must not fail.
func (h *host) live(life fullDiskLife, prepared int, fill func() (free func())) (failed string) {
	h.t.Helper()
	for _, step := range life.steps[:prepared] {
		must(h.t, step.do())
	}
	if fill != nil {
		defer fill()()
	}
	for _, step := range life.steps[prepared:] {
		if err := step.do(); err != nil {
			if status.Code(err) != codes.ResourceExhausted {
				h.t.Errorf("%s on a full disk: %v", step.name, err)
			}
			failed = step.name
			break
		}
	}
	for _, step := range life.ends {
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
