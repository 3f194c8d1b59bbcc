package sandbox

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/katadirect/katadirect/pkg/directvolume"
	"github.com/katadirect/katadirect/pkg/runtime/child"
	"github.com/katadirect/katadirect/pkg/runtime/config"
)

// shimMode, set in the environment, makes this test binary a shim that waits to be killed.
const shimMode = "SANDBOX_TEST_SHIM"

// anEmptyDir is the folder of one, as kubelet names it.
const anEmptyDir = "pods/uid/volumes/kubernetes.io~empty-dir/cache"

// TestShimToBeKilled is the other process of the test below, and no test by itself.
func TestShimToBeKilled(t *testing.T) {
	if os.Getenv(shimMode) == "" {
		t.Skip("it is run by TestAKilledShimLeavesNothingThatRunsAndTheRestIsCleanedUp")
	}
	h := newHost(t)
	h.options.Config.Runtime.EmptyDirMode = config.EmptyDirBlock
	s := h.create()
	if err := s.CreateContainer(t.Context(), h.container("c1", bind(h.folder("dir"), "/dir"), h.volume("v"),
		bind(h.folder(anEmptyDir), "/cache"))); err != nil {
		t.Fatal(err)
	}
	fmt.Printf("\nready %s\n", h.dir)
	select {}
}

func TestAKilledShimLeavesNothingThatRunsAndTheRestIsCleanedUp(t *testing.T) {
	shim := exec.Command(os.Args[0], "-test.run=^TestShimToBeKilled$")
	shim.Env = append(os.Environ(), shimMode+"=1")
	out, err := shim.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := shim.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = shim.Process.Kill(); _ = shim.Wait() })
	var dir string
	for lines := bufio.NewScanner(out); dir == "" && lines.Scan(); {
		dir, _ = strings.CutPrefix(lines.Text(), "ready ")
		if !strings.HasPrefix(dir, "/") {
			dir = ""
		}
	}
	if dir == "" {
		t.Fatal("the shim did not come up")
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	h := &host{t: t, dir: dir, options: Options{Bundle: dir + "/bundle"}, roots: Roots{
		Run: dir + "/sbs", VM: dir + "/vm", Share: dir + "/share", Records: dir + "/records"}}
	left, err := readRemains(h.roots.stateFile("s1"))
	if err != nil || left.Daemon == (child.Process{}) || len(left.Rootfs) != 1 {
		t.Fatalf("state %+v, %v", left, err)
	}

	image := filepath.Join(dir, anEmptyDir, "disk.img")
	if _, err := os.Stat(image); err != nil || !slices.Equal(left.EmptyDirs, []string{filepath.Dir(image)}) {
		t.Errorf("the emptyDir's disk: %v; written down: %q", err, left.EmptyDirs)
	}

	if err := shim.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = shim.Wait()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	for h.alive() { // its lease, which the kernel gives up
		if ctx.Err() != nil {
			t.Fatal("the lease is still held")
		}
		time.Sleep(time.Millisecond)
	}
	if err := left.Daemon.Wait(ctx); err != nil { // which nobody kills but the kernel
		t.Error(err)
	}
	if err := Cleanup(t.Context(), "s1", h.roots); err != nil {
		t.Fatal(err)
	}
	h.nothingLeft()
	if _, err := os.Lstat(image); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the disk of the emptyDir is left: %v", err)
	}
	if entries, err := h.roots.records().List(t.Context()); err != nil || len(entries) != 1 {
		t.Errorf("records: %+v, %v; want that of the volume only", entries, err)
	}
}

// A shim that lives without its pid file, or a machine without its own, is not found and so not killed.
func TestCleanupKeepsTheClaimsOfWhatStillHoldsTheLease(t *testing.T) {
	h := newHost(t)
	volume := h.volume("v").Source
	lease, err := h.roots.sandboxes().AcquireLease("s1")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = lease.Close() })
	if _, err := h.roots.records().Claim(t.Context(), volume, "s1"); err != nil {
		t.Fatal(err)
	}
	if err := Cleanup(t.Context(), "s1", h.roots); !errors.Is(err, directvolume.ErrLeaseHeld) {
		t.Errorf("error %v, want %v", err, directvolume.ErrLeaseHeld)
	}
	if id, err := h.roots.records().SandboxFor(t.Context(), volume); id != "s1" || err != nil {
		t.Errorf("claimed by %q, %v", id, err)
	}
	if err := lease.Close(); err != nil {
		t.Fatal(err)
	}
	if err := Cleanup(t.Context(), "s1", h.roots); err != nil {
		t.Fatal(err)
	}
	h.nothingLeft()
}
