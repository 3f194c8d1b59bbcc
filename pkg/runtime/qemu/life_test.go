package qemu_test

import (
	"bufio"
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/katadirect/katadirect/pkg/directvolume"
	"github.com/katadirect/katadirect/pkg/runtime/qemu"
	"github.com/katadirect/katadirect/pkg/runtime/vm"
)

func awaitDone(t *testing.T, m vm.Machine) {
	t.Helper()
	select {
	case <-m.Done():
	case <-time.After(patience):
		t.Fatal("the machine does not end")
	}
}

func TestAFailedStartSpeaksWithQEMUsWordsAndLeavesNothing(t *testing.T) {
	for _, tc := range []struct {
		name   string
		change func(*qemu.Config)
		want   string
	}{
		{"no such program", func(c *qemu.Config) { c.QEMU = "/nonexistent/qemu" }, "no such file"},
		{"no kernel", func(c *qemu.Config) { c.Kernel = "/nonexistent/vmlinux" }, "could not open kernel file"},
		{"no initrd", func(c *qemu.Config) { c.Initrd = "/nonexistent/initrd" }, "error reading initrd"},
		{"nobody serves the share", func(c *qemu.Config) { c.ShareSocket = "/nonexistent/fs.sock" }, "/nonexistent/fs.sock"},
		{"more memory than there is", func(c *qemu.Config) { c.MemoryMiB = 1 << 30 }, "memory"},
		{"a program that says nothing", func(c *qemu.Config) { c.QEMU = "/bin/false" }, "exit status 1"},
		{"relative folder", func(c *qemu.Config) { c.Dir = "vm" }, "not an absolute path"},
		{"folder too deep for a socket", func(c *qemu.Config) { c.Dir = "/tmp/" + strings.Repeat("x", 100) }, "longer than"},
		{"no id", func(c *qemu.Config) { c.ID = "" }, "no id"},
		{"too many bridges", func(c *qemu.Config) { c.Bridges = 6 }, "default_bridges"},
		{"unknown block driver", func(c *qemu.Config) { c.BlockDriver = "ide" }, "block_device_driver"},
		{"unknown block engine", func(c *qemu.Config) { c.BlockAIO = "fast" }, "block_device_aio"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			c, err := testConfig(qemu.Config{})
			if err != nil {
				t.Fatal(err)
			}
			tc.change(&c)
			m := qemu.New(c)
			mustContain(t, "Start", m.Start(t.Context()), tc.want)
			if _, err := os.Stat(c.Dir); !errors.Is(err, os.ErrNotExist) {
				t.Errorf("the folder is left: %v", err)
			}
			if m.PID() != 0 || m.Err() != nil {
				t.Errorf("PID %d, Err %v of a machine that never ran", m.PID(), m.Err())
			}
			if err := m.Stop(t.Context()); err != nil {
				t.Errorf("Stop after a failed Start: %v", err)
			}
		})
	}
}

func TestStartIsBoundedByItsContext(t *testing.T) {
	c, err := testConfig(qemu.Config{})
	if err != nil {
		t.Fatal(err)
	}
	mute := filepath.Join(t.TempDir(), "mute")
	if err := os.WriteFile(mute, []byte("#!/bin/sh\nexec sleep 1000\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	c.QEMU = mute
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	err = qemu.New(c).Start(ctx)
	if !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a mute QEMU gave %v, want the deadline", err)
	}
	if _, err := os.Stat(c.Dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the folder is left: %v", err)
	}
}

func TestAFolderOfTheCallersIsUsedButNotAnotherMachines(t *testing.T) {
	c, err := testConfig(qemu.Config{})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(c.Dir, 0o700); err != nil {
		t.Fatal(err)
	}
	theirs := filepath.Join(c.Dir, "vhost-fs.sock")
	if err := os.WriteFile(theirs, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	failing := c
	failing.Kernel = "/nonexistent"
	if err := qemu.New(failing).Start(t.Context()); err == nil {
		t.Fatal("started without a kernel")
	}
	if entries, err := os.ReadDir(c.Dir); err != nil || len(entries) != 1 {
		t.Errorf("after a failed start the folder has %v, %v; want what was there", entries, err)
	}
	m := qemu.New(c)
	if err := m.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	mustContain(t, "a second machine in the folder", qemu.New(c).Start(t.Context()), "belongs to process "+strconv.Itoa(m.PID()))
	if err := m.Stop(t.Context()); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(c.Dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("Stop left the folder: %v", err)
	}
}

func TestStopIsCompleteAndMayBeRepeated(t *testing.T) {
	never := qemu.New(qemu.Config{})
	if err := never.Stop(t.Context()); err != nil {
		t.Errorf("Stop before Start: %v", err)
	}
	if err := never.Start(t.Context()); err == nil {
		t.Error("Start after Stop succeeded")
	}
	if _, err := never.PlugDisk(t.Context(), vm.Disk{}); err == nil {
		t.Error("a disk was plugged into nothing")
	}
	if _, err := bareImage(); err != nil { // not to be counted below
		t.Fatal(err)
	}
	before := openFiles(t)
	g := newGuest(t, qemu.Config{})
	if err := g.m.Start(t.Context()); err == nil {
		t.Error("a second Start succeeded")
	}
	g.plug(vm.Disk{ID: "x", Path: sparseFile(t, mib)})
	for range 2 {
		if err := g.stopAndLook(); err != nil {
			t.Error(err)
		}
	}
	awaitDone(t, g.m)
	if after := openFiles(t); after != before {
		t.Errorf("%d files are open, %d were before", after, before)
	}
	if err := g.m.Err(); err != nil {
		t.Errorf("Err after Stop: %v", err)
	}
	if _, err := g.m.DialAgent(t.Context()); !errors.Is(err, vm.ErrGone) {
		t.Errorf("DialAgent after Stop gave %v, want ErrGone", err)
	}
}

func openFiles(t *testing.T) int {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(entries)
}

func TestStopDoesNotWaitForAQEMUThatHangs(t *testing.T) {
	g := newGuest(t, qemu.Config{})
	if err := unix.Kill(g.m.PID(), unix.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if err := g.m.Stop(ctx); err != nil {
		t.Error(err)
	}
	if err := g.stopAndLook(); err != nil {
		t.Error(err)
	}
}

func TestAKilledQEMUIsNoticedByEverybody(t *testing.T) {
	g := newGuest(t, qemu.Config{})
	dialled := make(chan error, 1)
	go func() {
		_, err := g.m.DialAgent(context.Background())
		dialled <- err
	}()
	if err := unix.Kill(g.m.PID(), unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	awaitDone(t, g.m)
	mustContain(t, "Err", g.m.Err(), "signal 9")
	_, plugErr := g.m.PlugDisk(t.Context(), vm.Disk{ID: "x", Path: sparseFile(t, mib)})
	for what, err := range map[string]error{
		"the waiting DialAgent": <-dialled,
		"PlugDisk":              plugErr,
		"UnplugDisk":            g.m.UnplugDisk(t.Context(), "x"),
		"ResizeDisk":            g.m.ResizeDisk(t.Context(), "x", mib),
	} {
		if !errors.Is(err, vm.ErrGone) || !strings.Contains(err.Error(), "signal 9") {
			t.Errorf("%s gave %v, want ErrGone with the reason", what, err)
		}
	}
}

func TestTheMachineDiesWithItsShim(t *testing.T) {
	c, err := testConfig(qemu.Config{})
	if err != nil {
		t.Fatal(err)
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	parent := exec.Command(self)
	parent.Env = append(os.Environ(), parentEnv+"="+c.Dir, "KATADIRECT_TEST_KERNEL="+c.Kernel, "KATADIRECT_TEST_INITRD="+c.Initrd)
	out, err := parent.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := parent.Start(); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	pid, convErr := strconv.Atoi(strings.TrimSpace(line))
	if err != nil || convErr != nil {
		t.Fatalf("the parent said %q: %v", line, err)
	}
	qemuFD, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(qemuFD)
	if err := parent.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = parent.Wait()
	n, err := unix.Poll([]unix.PollFd{{Fd: int32(qemuFD), Events: unix.POLLIN}}, int(patience.Milliseconds()))
	if n != 1 || err != nil {
		t.Errorf("QEMU outlives its parent: %v", err)
	}
	// What the dead shim left is cleaned up by the next process.
	if err := qemu.Kill(t.Context(), c.Dir); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(c.Dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the folder is left: %v", err)
	}
}

func TestKillEndsAMachineItDidNotStart(t *testing.T) {
	g := newGuest(t, qemu.Config{})
	if err := qemu.Kill(t.Context(), g.dir); err != nil {
		t.Fatal(err)
	}
	awaitDone(t, g.m)
	mustContain(t, "Err", g.m.Err(), "signal 9")
	if _, err := os.Stat(g.dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the folder is left: %v", err)
	}
	if err := qemu.Kill(t.Context(), g.dir); err != nil {
		t.Errorf("a second Kill: %v", err)
	}
	if err := qemu.Kill(t.Context(), ""); err == nil {
		t.Error("an empty folder was accepted")
	}
}

func TestKillSparesAProcessThatHasTheNumberNow(t *testing.T) {
	innocent := exec.Command("sleep", "1000")
	if err := innocent.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		_ = innocent.Process.Kill()
		_ = innocent.Wait()
	}()
	for _, content := range []string{strconv.Itoa(innocent.Process.Pid) + "\n", "", "1\n", "-1\n", "no number"} {
		dir := filepath.Join(t.TempDir(), "vm")
		if err := os.Mkdir(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, "pid"), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := qemu.Kill(t.Context(), dir); err != nil {
			t.Error(err)
		}
		if _, err := os.Stat(dir); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("the folder is left: %v", err)
		}
	}
	if err := innocent.Process.Signal(unix.Signal(0)); err != nil {
		t.Errorf("the innocent process is gone: %v", err)
	}
}

func TestALeaseIsHeldAsLongAsTheMachineLives(t *testing.T) {
	sandboxes := directvolume.Sandboxes{GoDir: t.TempDir()}
	lease, err := sandboxes.AcquireLease("s1")
	if err != nil {
		t.Fatal(err)
	}
	g := newGuest(t, qemu.Config{Lease: lease})
	if err := lease.Close(); err != nil { // as when the shim dies
		t.Fatal(err)
	}
	if !sandboxes.LeaseHeld("s1") {
		t.Error("the lease is free while the machine runs")
	}
	if err := g.stopAndLook(); err != nil {
		t.Fatal(err)
	}
	if sandboxes.LeaseHeld("s1") {
		t.Error("the lease is held after the machine's end")
	}
}
