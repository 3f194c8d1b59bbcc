package guest_test

import (
	"context"
	"errors"
	"log/slog"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/katadirect/katadirect/pkg/agentproto"
	"github.com/katadirect/katadirect/pkg/runtime/qemu"
	"github.com/katadirect/katadirect/pkg/runtime/share"
	"github.com/katadirect/katadirect/pkg/runtime/vm"
)

// grown is what the guest says that it has.
func grown(c *containerIn) (processors, memoryMiB int) {
	c.t.Helper()
	processors, err := strconv.Atoi(c.must("grep -c '^processor' /proc/cpuinfo"))
	if err != nil {
		c.t.Fatal(err)
	}
	kib, err := strconv.Atoi(c.must("grep MemTotal /proc/meminfo | busybox awk '{print $2}'"))
	if err != nil {
		c.t.Fatal(err)
	}
	return processors, kib >> 10
}

// newSharingMachine boots a machine with a file share, and a sandbox in it.
func newSharingMachine(t *testing.T, c qemu.Config) (*machine, *share.Share) {
	t.Helper()
	dir := t.TempDir()
	c.ShareSocket = filepath.Join(dir, "fs.sock")
	shared, err := share.Start(t.Context(), share.Config{
		ID: "guest-test", Root: filepath.Join(dir, "share"), Socket: c.ShareSocket,
		Daemon: "/usr/lib/qemu/virtiofsd", Cache: "auto", Args: []string{"--announce-submounts"}, Log: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := shared.Close(context.Background()); err != nil {
			t.Error(err)
		}
	})
	m := newMachine(t, c)
	_, err = m.agent.CreateSandbox(t.Context(), &agentproto.CreateSandboxRequest{
		SandboxId: "sandbox0",
		Storages:  []*agentproto.Storage{{Driver: "virtio-fs", Source: "kataShared", Fstype: "virtiofs", MountPoint: sharedDir}},
	})
	if err != nil {
		t.Fatal(err)
	}
	return m, shared
}

func TestAMachineGrowsWhileItRuns(t *testing.T) {
	m, shared := newSharingMachine(t, qemu.Config{MemoryMiB: 384, MaxVCPUs: 4, MaxMemoryMiB: 8 << 10, MemorySlots: 3})
	guestRootfs, err := shared.Bind(t.Context(), "c", newRootfs(t, t.TempDir()), "/", false)
	if err != nil {
		t.Fatal(err)
	}
	s := spec("exec sleep 1000000")
	s.Root.Path = guestRootfs
	c := m.create(t, s).start()
	processors, before := grown(c)
	if processors != 1 {
		t.Fatalf("%d processors before", processors)
	}

	begin := time.Now()
	plugged, err := m.GrowVCPUs(t.Context(), 3)
	if err != nil || plugged != 2 {
		t.Fatalf("%d processors were plugged in, %v", plugged, err)
	}
	if plugged, err := m.GrowVCPUs(t.Context(), 2); err != nil || plugged != 0 {
		t.Errorf("fewer than there are: %d, %v", plugged, err)
	}
	if now, err := m.GrowMemory(t.Context(), 500); err != nil || now != 512 {
		t.Fatalf("%d MiB now, %v; want whole steps", now, err)
	}
	if now, err := m.GrowMemory(t.Context(), 1024); err != nil || now != 1024 {
		t.Fatalf("%d MiB now, %v", now, err)
	}
	online := func(processors int) {
		t.Helper()
		_, err := m.agent.OnlineCPUMem(t.Context(), &agentproto.OnlineCPUMemRequest{Wait: true, NbCpus: uint32(processors)})
		if err != nil {
			t.Fatal(err)
		}
	}
	online(plugged)
	processors, after := grown(c)
	for after < before+600 && time.Since(begin) < patience { // memory comes a moment later, by itself
		time.Sleep(10 * time.Millisecond)
		_, after = grown(c)
	}
	t.Logf("processors and memory are in use after %s", time.Since(begin))
	if processors != 3 || after < before+600 {
		t.Errorf("%d processors and %d MiB after, %d MiB before", processors, after, before)
	}
	// It is more than there was that is used now, and the share reaches it.
	c.must("x=$(head -c 250000000 /dev/zero | tr '\\0' x); echo ${#x} >/file; echo 250000000 | cmp - /file")

	if _, err := m.GrowVCPUs(t.Context(), 5); !errors.Is(err, vm.ErrLimit) || !strings.Contains(err.Error(), "default_maxvcpus") {
		t.Errorf("a fifth processor of four: %v", err)
	}
	if _, err := m.GrowMemory(t.Context(), 16<<10); !errors.Is(err, vm.ErrLimit) || !strings.Contains(err.Error(), "default_maxmemory") {
		t.Errorf("16 GiB of 8: %v", err)
	}
	if _, err := m.GrowMemory(t.Context(), 1100); err != nil {
		t.Error(err)
	}
	if _, err := m.GrowMemory(t.Context(), 1500); !errors.Is(err, vm.ErrLimit) || !strings.Contains(err.Error(), "memory_slots") {
		t.Errorf("a fourth module in three slots: %v", err)
	}
	online(0)
}
