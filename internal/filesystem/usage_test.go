package filesystem

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/katadirect/katadirect/internal/condition"
)

func TestReservedBlocksAreNotAvailable(t *testing.T) {
	image := newImage(t, 64*mib)
	run(t, "mkfs.ext4", "-q", "-m", "25", image)
	usage, err := Measure(mountFor(t, attach(t, image), "ext4"))
	if err != nil {
		t.Fatal(err)
	}
	free := usage.Total - usage.Used
	if reserved := free - usage.Available; reserved < 10*mib || reserved > 20*mib {
		t.Errorf("reserved %d of 64 MiB, want about a quarter: %+v", reserved, usage)
	}
	if usage.Inodes == 0 || usage.InodesFree+usage.InodesUsed != usage.Inodes {
		t.Errorf("inodes: %+v", usage)
	}
}

func TestBtrfsHasNoInodeCount(t *testing.T) {
	image := newImage(t, 128*mib)
	run(t, "mkfs.btrfs", "-q", image)
	usage, err := Measure(mountFor(t, attach(t, image), "btrfs"))
	if err != nil || usage.Inodes != 0 || usage.Total != 128*mib {
		t.Errorf("%+v, %v", usage, err)
	}
}

func TestMeasuringAMissingPathIsAnError(t *testing.T) {
	if _, err := Measure("/no/such/path"); !errors.Is(err, unix.ENOENT) {
		t.Error(err)
	}
}

func TestProblemsAreTheRealState(t *testing.T) {
	node := attach(t, newExt4(t))
	target := mountFor(t, node, "ext4")
	look := func(wantWritable bool) string {
		m, err := MountAt(target)
		if err != nil {
			t.Fatal(err)
		}
		return condition.Format(Problems(m, filepath.Base(node), Expected{Writable: wantWritable})...)
	}
	if found := look(true); found != condition.OK {
		t.Errorf("healthy file system: %q", found)
	}
	trigger := filepath.Join("/sys/fs/ext4", filepath.Base(node), "trigger_fs_error")
	if err := os.WriteFile(trigger, []byte("x"), 0o200); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("", target, "", unix.MS_REMOUNT|unix.MS_RDONLY, ""); err != nil {
		t.Fatal(err)
	}
	if found := look(false); !strings.HasPrefix(found, condition.FileSystemErrors) || !strings.Contains(found, "1 errors") || !strings.Contains(found, "the latest at 20") || strings.Contains(found, condition.ReadOnly) {
		t.Errorf("error counted by the kernel, read-only as asked for: %q", found)
	}
	if found := look(true); !strings.Contains(found, condition.ReadOnly) {
		t.Errorf("gone read-only: %q", found)
	}
}

// Growing a mounted ext4 needs CAP_SYS_RESOURCE, which the test's host may not
// have: it is tested in the guest.
func TestGrowFillsTheDeviceWhileMounted(t *testing.T) {
	for _, fstype := range []string{"xfs", "btrfs"} {
		t.Run(fstype, func(t *testing.T) {
			image := newImage(t, 320*mib)
			run(t, "mkfs."+fstype, "-q", image)
			node := attach(t, image)
			target := mountFor(t, node, fstype)
			if err := os.WriteFile(filepath.Join(target, "file"), []byte("data"), 0o600); err != nil {
				t.Fatal(err)
			}
			// Already as large as the device.
			if err := Grow(target, fstype, 320*mib); err != nil {
				t.Errorf("nothing to grow: %v", err)
			}
			if err := os.Truncate(image, 640*mib); err != nil {
				t.Fatal(err)
			}
			run(t, "losetup", "--set-capacity", node)
			if err := Grow(target, fstype, 640*mib); err != nil {
				t.Fatal(err)
			}
			usage, err := Measure(target)
			if err != nil || usage.Total < 520*mib {
				t.Errorf("after growing to 640 MiB: %+v, %v", usage, err)
			}
			if data, err := os.ReadFile(filepath.Join(target, "file")); err != nil || string(data) != "data" {
				t.Errorf("content: %q, %v", data, err)
			}
		})
	}
}

func TestTypesThatCannotGrowSaySo(t *testing.T) {
	if err := Grow(t.TempDir(), "tmpfs", 1); !errors.Is(err, ErrUnsupported) {
		t.Errorf("%v, want ErrUnsupported", err)
	}
}

func TestOnlyCountersThatCountedAreTold(t *testing.T) {
	if got := nonZero("write_errs 0\nread_errs 3\nflush_errs 0\ncorruption_errs 1\n"); got != "read_errs 3, corruption_errs 1" {
		t.Error(got)
	}
	if got := nonZero("write_errs 0\n"); got != "" {
		t.Error(got)
	}
}
