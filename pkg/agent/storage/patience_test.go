package storage

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/katadirect/katadirect/internal/filesystem"
	"github.com/katadirect/katadirect/pkg/agent/device"
	"github.com/katadirect/katadirect/pkg/agent/module"
	"github.com/katadirect/katadirect/pkg/agentproto"
)

func TestWhatAToolDoesToADiskIsNotCutShortWhenTheShimGivesUp(t *testing.T) {
	events, err := device.Listen()
	if err != nil {
		t.Fatal(err)
	}
	defer events.Close()
	modules, err := module.Open("/no/list/here")
	if err != nil {
		t.Fatal(err)
	}
	node := loopDisk(t)

	ctx, giveUp := context.WithCancel(t.Context())
	var formats int
	m := &Mounts{
		Finder: &device.Finder{Events: events}, Modules: modules, DeviceTimeout: time.Second,
		Tools: func(ctx context.Context, name string, args ...string) ([]byte, int, error) {
			formats++
			giveUp()
			output, err := exec.CommandContext(ctx, name, args...).CombinedOutput()
			return output, 0, err
		},
	}
	s := &agentproto.Storage{
		Driver: "blk", Source: node, Fstype: "ext4", DriverOptions: []string{OptionFormat + "=" + formatIfBlank},
		MountPoint: filepath.Join(t.TempDir(), "volume"),
	}
	t.Cleanup(func() {
		if err := m.ReleaseAll(context.WithoutCancel(t.Context())); err != nil {
			t.Error(err)
		}
	})
	if err := m.Add(ctx, s); !errors.Is(err, context.Canceled) {
		t.Errorf("add for a shim that has given up: %v, want %v", err, context.Canceled)
	}
	if _, err := filesystem.MountAt(s.MountPoint); err == nil {
		t.Error("it is mounted for nobody")
	}
	if err := m.Add(t.Context(), s); err != nil {
		t.Fatal(err)
	}
	if formats != 1 {
		t.Errorf("it was formatted %d times; the first was cut short", formats)
	}
}

// loopDisk makes a blank disk of 64 MiB.
func loopDisk(t *testing.T) (node string) {
	t.Helper()
	image := filepath.Join(t.TempDir(), "disk.img")
	if err := errors.Join(os.WriteFile(image, nil, 0o600), os.Truncate(image, 64<<20)); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command("losetup", "--find", "--show", image).Output()
	if err != nil {
		t.Fatal(err)
	}
	node = strings.TrimSpace(string(out))
	t.Cleanup(func() {
		if out, err := exec.Command("losetup", "--detach", node).CombinedOutput(); err != nil {
			t.Errorf("detach: %s", out)
		}
	})
	return node
}

func TestAFileSystemThatCannotGrowIsMountedAllTheSame(t *testing.T) {
	node := loopDisk(t)
	if out, err := exec.Command("mkfs.ext2", "-q", node, "32M").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	m := mountsOf(t)
	if err := m.Add(t.Context(), &agentproto.Storage{
		Driver: "blk", Source: node, Fstype: "ext2", DriverOptions: []string{OptionGrow + "=" + growOnMount},
		MountPoint: filepath.Join(t.TempDir(), "volume"),
	}); err != nil {
		t.Error(err)
	}
}

// mountsOf is a Mounts that runs this host's own tools.
func mountsOf(t *testing.T) *Mounts {
	t.Helper()
	events, err := device.Listen()
	if err != nil {
		t.Fatal(err)
	}
	modules, err := module.Open("/no/list/here")
	if err != nil {
		t.Fatal(err)
	}
	m := &Mounts{
		Finder: &device.Finder{Events: events}, Modules: modules, DeviceTimeout: time.Second,
		Tools: func(ctx context.Context, name string, args ...string) ([]byte, int, error) {
			output, err := exec.CommandContext(ctx, name, args...).CombinedOutput()
			return output, 0, err
		},
	}
	t.Cleanup(func() {
		if err := m.ReleaseAll(context.WithoutCancel(t.Context())); err != nil {
			t.Error(err)
		}
		events.Close()
	})
	return m
}

func TestAVolumeWhoseReleaseFailedHalfWayIsMountedForTheNextUser(t *testing.T) {
	s := &agentproto.Storage{
		Driver: "blk", Source: loopDisk(t), Fstype: "ext4", DriverOptions: []string{OptionFormat + "=" + formatIfBlank},
		MountPoint: filepath.Join(t.TempDir(), "volume"),
	}
	m := mountsOf(t)
	if err := m.Add(t.Context(), s); err != nil {
		t.Fatal(err)
	}
	if err := unix.Unmount(s.MountPoint, 0); err != nil { // as Release does before it waits for the device
		t.Fatal(err)
	}
	if err := m.Add(t.Context(), s); err != nil {
		t.Fatal(err)
	}
	if _, err := filesystem.MountAt(s.MountPoint); err != nil {
		t.Fatalf("the next user gets a folder of the guest's own: %v", err)
	}
	for _, mounted := range []bool{true, false} { // the first one's second try, and the second one's
		if err := m.Release(t.Context(), s.MountPoint); err != nil {
			t.Fatal(err)
		}
		if _, err := filesystem.MountAt(s.MountPoint); (err == nil) != mounted {
			t.Errorf("mounted: %v, want %v", err == nil, mounted)
		}
	}
}
