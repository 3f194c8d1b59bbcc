package qemu_test

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/katadirect/katadirect/pkg/runtime/qemu"
	"github.com/katadirect/katadirect/pkg/runtime/vm"
)

// A copy is of the moment at which it was begun, whatever the guest writes before it is whole.
func TestACopyIsAsTheDiskWasWhenItWasBegun(t *testing.T) {
	g := sharedGuest(t)
	path, target := sparseFile(t, 256*mib), sparseFile(t, 256*mib)
	old, young := bytes.Repeat([]byte("old data"), 512/8), bytes.Repeat([]byte("new data"), 512/8)
	offsets := []int64{0, 100 * mib, 256*mib - 512}
	g.plug(vm.Disk{ID: "source", Path: path})
	g.disk("source", true)
	for _, at := range offsets {
		g.ask(request{Do: "write", Serial: "source", Offset: at, Data: old})
	}
	c, err := g.m.CopyDisk(t.Context(), "source", target)
	if err != nil {
		t.Fatal(err)
	}
	for _, at := range offsets {
		g.ask(request{Do: "write", Serial: "source", Offset: at, Data: young})
	}
	awaitCopy(t, c)
	if copied, total, err := c.Progress(t.Context()); err != nil || copied != total || c.Err() != nil {
		t.Errorf("copied %d of %d, %v, %v", copied, total, err, c.Err())
	}
	got := make([]byte, 512)
	for _, at := range offsets {
		for file, want := range map[string][]byte{target: old, path: young} {
			f, err := os.Open(file)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := f.ReadAt(got, at); err != nil || !bytes.Equal(got, want) {
				t.Errorf("%s holds %q at %d, %v", file, got[:8], at, err)
			}
			f.Close()
		}
	}
	if err := c.Cancel(t.Context()); err != nil {
		t.Errorf("cancelled after its end: %v", err)
	}
	// A second one, and the disk can grow and go after it.
	if c, err = g.m.CopyDisk(t.Context(), "source", sparseFile(t, 300*mib)); err != nil {
		t.Fatal(err)
	}
	awaitCopy(t, c)
	if err := g.m.ResizeDisk(t.Context(), "source", 512*mib); err != nil || c.Err() != nil {
		t.Error(err, c.Err())
	}
	g.unplug("source")
}

func TestADiskThatIsBeingCopiedDoesNotGrowAndItsCopyEndsBeforeItGoes(t *testing.T) {
	g := sharedGuest(t)
	path := sparseFile(t, 64*mib)
	if err := os.WriteFile(path, bytes.Repeat([]byte("data"), 16*mib), 0o600); err != nil { // more than is copied at once
		t.Fatal(err)
	}
	g.plug(vm.Disk{ID: "source", Path: path})
	g.disk("source", true)
	point, thaw := frozenFolder(t) // whoever writes there waits
	target := filepath.Join(point, "copy")
	c, err := g.m.CopyDisk(t.Context(), "source", target)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := g.m.CopyDisk(t.Context(), "source", sparseFile(t, 64*mib)); !errors.Is(err, vm.ErrCopying) {
		t.Errorf("a second copy: %v", err)
	}
	if err := g.m.ResizeDisk(t.Context(), "source", 128*mib); !errors.Is(err, vm.ErrCopying) {
		t.Errorf("resize: %v", err)
	}
	time.AfterFunc(time.Second, thaw)
	if err := c.Cancel(t.Context()); err != nil || !errors.Is(c.Err(), vm.ErrCopyEnded) {
		t.Errorf("cancelled: %v, %v", err, c.Err())
	}
	if err := g.m.ResizeDisk(t.Context(), "source", 128*mib); err != nil {
		t.Errorf("resize after the copy: %v", err)
	}
	if c, err = g.m.CopyDisk(t.Context(), "source", sparseFile(t, 128*mib)); err != nil {
		t.Fatal(err)
	}
	g.unplug("source")
	select {
	case <-c.Done(): // whole or not, as it went
	default:
		t.Error("the disk is gone, and its copy goes on")
	}
}

// The pool's disk breaks. The guest's own disk is well, so its writes must not fail for the copy's sake.
func TestACopyThatCannotBeWrittenIsNoErrorOfTheGuests(t *testing.T) {
	for name, config := range map[string]qemu.Config{
		"virtio-blk": {IOThread: true}, "scsi": {BlockDriver: qemu.VirtioSCSI, IOThread: true, KernelParams: []string{"testguest.scsi"}},
	} {
		t.Run(name, func(t *testing.T) {
			g := newGuest(t, config)
			if err := g.dial(); err != nil {
				t.Fatal(err)
			}
			path := sparseFile(t, 64*mib)
			if err := os.WriteFile(path, bytes.Repeat([]byte("data"), 16*mib), 0o600); err != nil {
				t.Fatal(err)
			}
			if address := g.plug(vm.Disk{ID: "source", Path: path}); address.Driver == "scsi" {
				g.ask(request{Do: "scan", Text: address.Source})
			}
			g.disk("source", true)
			point, thaw := frozenFolder(t, "breaks")
			c, err := g.m.CopyDisk(t.Context(), "source", filepath.Join(point, "copy"))
			if err != nil {
				t.Fatal(err)
			}
			// The copy waits in its first write, and the guest's write for the copy of what it overwrites. Then both hear
			// that the disk is broken.
			time.AfterFunc(8*time.Second, thaw)               // by when the guest has written, on however busy a machine
			young := bytes.Repeat([]byte("new data"), 4096/8) // a page: less would have to be read first, and wait there
			g.ask(request{Do: "write", Serial: "source", Offset: 60 * mib, Data: young})
			awaitCopy(t, c)
			if err := c.Err(); !errors.Is(err, vm.ErrCopyEnded) {
				t.Errorf("the copy: %v", err)
			}
			got := make([]byte, len(young))
			f, err := os.Open(path)
			if err == nil {
				_, err = f.ReadAt(got, 60*mib)
				f.Close()
			}
			if err != nil || !bytes.Equal(got, young) {
				t.Errorf("the disk holds %q, %v", got[:8], err)
			}
			// Everything works as before, and nothing of the copy is left in the way of the next.
			if err := g.m.ResizeDisk(t.Context(), "source", 128*mib); err != nil {
				t.Error(err)
			}
			g.ask(request{Do: "write", Serial: "source", Offset: 50 * mib, Data: young})
			if c, err = g.m.CopyDisk(t.Context(), "source", sparseFile(t, 128*mib)); err != nil {
				t.Fatal(err)
			}
			awaitCopy(t, c)
			if err := c.Err(); err != nil {
				t.Errorf("the next copy: %v", err)
			}
			g.unplug("source")
		})
	}
}

func TestWhatCannotBeCopiedToIsRefused(t *testing.T) {
	g := sharedGuest(t)
	path := sparseFile(t, 64*mib)
	g.plug(vm.Disk{ID: "source", Path: path})
	link, twice := filepath.Join(t.TempDir(), "link"), sparseFile(t, 64*mib)
	if err := errors.Join(os.Symlink(twice, link), os.Link(twice, link+"2")); err != nil {
		t.Fatal(err)
	}
	for target, words := range map[string]string{
		"relative":            "not absolute",
		"/nonexistent/file":   "no such file",
		t.TempDir():           "is a directory",
		"/dev/null":           "not a regular file",
		link:                  "too many levels of symbolic links",
		twice:                 "other names",
		sparseFile(t, 32*mib): "has 33554432 bytes",
		path:                  "", // itself, in QEMU's words
	} {
		if _, err := g.m.CopyDisk(t.Context(), "source", target); err == nil || !strings.Contains(err.Error(), words) {
			t.Errorf("to %s: %v", target, err)
		}
	}
	if _, err := g.m.CopyDisk(t.Context(), "unknown", sparseFile(t, mib)); !errors.Is(err, vm.ErrNotFound) {
		t.Errorf("of an unknown disk: %v", err)
	}
	g.unplug("source") // nothing is left of the refused ones
}

func awaitCopy(t *testing.T, c vm.DiskCopy) {
	t.Helper()
	select {
	case <-c.Done():
	case <-time.After(patience):
		t.Fatal("the copy has no end")
	}
}

// frozenFolder is a mounted file system with a file "copy" of 64 MiB, to which nobody can write before thaw is called.
// "breaks" has thaw shut the file system down, as it does itself when its disk fails: whoever waits gets EIO.
func frozenFolder(t *testing.T, how ...string) (point string, thaw func()) {
	t.Helper()
	run := func(name string, args ...string) {
		t.Helper()
		if said, err := exec.Command(name, args...).CombinedOutput(); err != nil {
			t.Fatalf("%s %v: %v: %s", name, args, err, said)
		}
	}
	point = t.TempDir()
	image := sparseFile(t, 128*mib)
	run("mkfs.ext4", "-q", image)
	run("mount", "-o", "loop", image, point)
	t.Cleanup(func() { run("umount", point) })
	run("truncate", "-s", "64M", filepath.Join(point, "copy"))
	run("fsfreeze", "--freeze", point)
	thaw = func() {
		if slices.Contains(how, "breaks") {
			shutDown(t, point)
		}
		_ = exec.Command("fsfreeze", "--unfreeze", point).Run()
	}
	t.Cleanup(thaw)
	return point, thaw
}

// shutDown is ext4's and xfs's ioctl EXT4_IOC_SHUTDOWN, without writing the log out.
func shutDown(t *testing.T, point string) {
	const request, withoutLog = 0x8004587d, 2
	f, err := os.Open(point)
	if err == nil {
		err = unix.IoctlSetPointerInt(int(f.Fd()), request, withoutLog)
		err = errors.Join(err, f.Close())
	}
	if err != nil {
		t.Errorf("shut the file system down: %v", err)
	}
}
