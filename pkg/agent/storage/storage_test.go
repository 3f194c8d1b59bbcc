package storage

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/katadirect/katadirect/internal/filesystem"
	"github.com/katadirect/katadirect/internal/mkfs"
	"github.com/katadirect/katadirect/pkg/agent/device"
	"github.com/katadirect/katadirect/pkg/agent/module"
	"github.com/katadirect/katadirect/pkg/agentproto"
)

// rig is a Mounts on this host: a loop device is its disk.
type rig struct {
	*Mounts
	t   *testing.T
	dir string
}

func newRig(t *testing.T) *rig {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Fatal("loop devices and mounts need root: run the tests as root")
	}
	events, err := device.Listen()
	if err != nil {
		t.Fatal(err)
	}
	modules, err := module.Open("/no/list/here")
	if err != nil {
		t.Fatal(err)
	}
	r := &rig{t: t, dir: t.TempDir(), Mounts: &Mounts{
		Finder: &device.Finder{Events: events}, Modules: modules, Tools: hostTools, DeviceTimeout: 200 * time.Millisecond,
	}}
	t.Cleanup(func() {
		if err := r.ReleaseAll(context.Background()); err != nil {
			t.Error(err)
		}
		events.Close()
	})
	return r
}

func hostTools(ctx context.Context, name string, args ...string) ([]byte, int, error) {
	output, err := exec.CommandContext(ctx, name, args...).CombinedOutput()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return output, exit.ExitCode(), nil
	}
	return output, 0, err
}

// disk makes a disk of 64 MiB, and the message that asks for it.
func (r *rig) disk(options ...string) *agentproto.Storage {
	r.t.Helper()
	image, err := os.CreateTemp(r.dir, "disk")
	if err != nil {
		r.t.Fatal(err)
	}
	defer image.Close()
	if err := image.Truncate(64 << 20); err != nil {
		r.t.Fatal(err)
	}
	out, err := exec.Command("losetup", "--find", "--show", image.Name()).Output()
	if err != nil {
		r.t.Fatal(err)
	}
	node := strings.TrimSpace(string(out))
	r.t.Cleanup(func() {
		// Registered after ReleaseAll, and so called before it.
		_ = r.ReleaseAll(context.Background())
		if out, err := exec.Command("losetup", "--detach", node).CombinedOutput(); err != nil {
			r.t.Errorf("detach: %s", out)
		}
	})
	return &agentproto.Storage{
		Driver: "blk", Source: node, Fstype: "ext4", DriverOptions: options,
		MountPoint: filepath.Join(r.dir, "mnt-"+filepath.Base(node)),
	}
}

const ifBlankOption = OptionFormat + "=" + formatIfBlank

func (r *rig) add(s *agentproto.Storage) {
	r.t.Helper()
	if err := r.Add(r.t.Context(), s); err != nil {
		r.t.Fatal(err)
	}
}

func (r *rig) release(s *agentproto.Storage) {
	r.t.Helper()
	if err := r.Release(r.t.Context(), s.MountPoint); err != nil {
		r.t.Fatal(err)
	}
}

func isMounted(path string) bool {
	_, err := filesystem.MountAt(path)
	return err == nil
}

func TestAMountPointIsCountedAndReleasedWithItsLastUser(t *testing.T) {
	r := newRig(t)
	s := r.disk(ifBlankOption)
	r.add(s)
	r.add(s)
	r.release(s)
	if !isMounted(s.MountPoint) {
		t.Fatal("unmounted with one user left")
	}
	r.release(s)
	if isMounted(s.MountPoint) {
		t.Error("still mounted without a user")
	}
	if _, err := os.Lstat(s.MountPoint); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the mount point is still there: %v", err)
	}
	r.release(s) // once too often does no harm
	r.add(s)
	if !isMounted(s.MountPoint) {
		t.Error("not mounted again")
	}
}

// Options for mkfs are for mkfs: on a volume that has a file system they are nothing, whatever they say.
func TestMkfsOptionsCountOnlyWhenTheDiskIsFormatted(t *testing.T) {
	r := newRig(t)
	bad := OptionMkfs + "=-F /dev/sda"
	s := r.disk(ifBlankOption, bad)
	if err := r.Add(t.Context(), s); !errors.Is(err, mkfs.ErrOption) || !IsUnusable(err) {
		t.Fatalf("a blank disk, formatted with %q: %v", bad, err)
	}
	s.DriverOptions = []string{ifBlankOption, OptionMkfs + "=-L data"}
	r.add(s)
	r.release(s)
	s.DriverOptions = []string{ifBlankOption, bad}
	r.add(s)
}

func TestContainersThatAskAtTheSameTimeShareOneMount(t *testing.T) {
	r := newRig(t)
	s := r.disk(ifBlankOption)
	const users = 8
	var all sync.WaitGroup
	for range users {
		all.Go(func() {
			if err := r.Add(t.Context(), s); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	for range users - 1 {
		r.release(s)
	}
	if !isMounted(s.MountPoint) {
		t.Error("unmounted with one user left")
	}
	r.release(s)
	if isMounted(s.MountPoint) {
		t.Error("mounted more than once")
	}
}

func TestAFailedAddLeavesNothingAndCanBeTriedAgain(t *testing.T) {
	r := newRig(t)
	s := r.disk() // blank, and not to be formatted
	if err := r.Add(t.Context(), s); !errors.Is(err, filesystem.ErrBlank) {
		t.Fatalf("%v, want ErrBlank", err)
	}
	if _, err := os.Lstat(s.MountPoint); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a mount point was left: %v", err)
	}
	// It fails after the mount: everything is taken back.
	s.DriverOptions = []string{ifBlankOption}
	s.FsGroup = &agentproto.FSGroup{GroupId: 1 << 31}
	if err := r.Add(t.Context(), s); !errors.Is(err, ErrRequest) {
		t.Fatalf("%v, want ErrRequest", err)
	}
	if isMounted(s.MountPoint) {
		t.Error("a mount was left")
	}
	s.FsGroup = nil
	r.add(s)
	r.release(s)
	if isMounted(s.MountPoint) {
		t.Error("the failed attempts were counted")
	}
}

func TestABusyVolumeIsReportedAndReleasedLater(t *testing.T) {
	r := newRig(t)
	s := r.disk(ifBlankOption)
	r.add(s)
	other := t.TempDir()
	if err := filesystem.Bind(s.MountPoint, other, filesystem.MountOptions{}); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = unix.Unmount(other, 0) }()
	if err := r.Release(t.Context(), s.MountPoint); !errors.Is(err, filesystem.ErrBusy) {
		t.Fatalf("mounted elsewhere still: %v, want ErrBusy", err)
	}
	if err := unix.Unmount(other, 0); err != nil {
		t.Fatal(err)
	}
	r.release(s)
	if err := filesystem.WaitReleased(t.Context(), s.Source); err != nil {
		t.Error(err)
	}
}

func TestBindIsNoOptionForADevice(t *testing.T) {
	r := newRig(t)
	s := r.disk(ifBlankOption)
	s.Options = []string{"rbind", "rw", "noatime"}
	r.add(s)
	if m, err := filesystem.MountAt(s.MountPoint); err != nil || m.FSType != "ext4" || m.Source != s.Source {
		t.Errorf("%+v, %v", m, err)
	}
}

func TestHealthAndResizeOfVolumes(t *testing.T) {
	r := newRig(t)
	s := r.disk(ifBlankOption)
	r.add(s)
	h, err := r.Health(t.Context(), s.MountPoint+"/")
	if err != nil || len(h.Problems) > 0 || h.Usage.Total == 0 || h.Usage.Total > 64<<20 {
		t.Errorf("%+v, %v", h, err)
	}
	if err := r.Resize(t.Context(), s.MountPoint, 65<<20); !errors.Is(err, device.ErrTimeout) {
		t.Errorf("larger than the device: %v, want ErrTimeout", err)
	}
	for _, path := range []string{"/", "/run", s.MountPoint + "/lost+found", ""} {
		if _, err := r.Health(t.Context(), path); !errors.Is(err, ErrNotMounted) {
			t.Errorf("health of %q: %v, want ErrNotMounted", path, err)
		}
		if err := r.Resize(t.Context(), path, 0); !errors.Is(err, ErrNotMounted) {
			t.Errorf("resize of %q: %v, want ErrNotMounted", path, err)
		}
	}
	s.Options = []string{"ro"}
	r.release(s)
	r.add(s)
	if err := r.Resize(t.Context(), s.MountPoint, 0); !errors.Is(err, ErrReadOnly) {
		t.Errorf("read-only: %v, want ErrReadOnly", err)
	}
}
