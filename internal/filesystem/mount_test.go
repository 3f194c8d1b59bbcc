package filesystem

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestMountOptionsAreSplitIntoFlagsAndData(t *testing.T) {
	for _, tc := range []struct {
		options []string
		want    MountOptions
	}{
		{nil, MountOptions{}},
		{[]string{"defaults"}, MountOptions{}},
		{[]string{"ro", "noatime"}, MountOptions{Flags: unix.MS_RDONLY | unix.MS_NOATIME}},
		{[]string{"ro", "rw"}, MountOptions{}},
		{[]string{"discard", "nodev,data=ordered", ""}, MountOptions{Flags: unix.MS_NODEV, Data: "discard,data=ordered"}},
		{[]string{"nofail", "_netdev", "x-systemd.automount", "comment=a"}, MountOptions{}},
		{[]string{"bind", "ro"}, MountOptions{Flags: unix.MS_RDONLY, Bind: true}},
		{[]string{"rbind"}, MountOptions{Bind: true, Recursive: true}},
		{[]string{"mode=1777", "size=65536k", "noexec"}, MountOptions{Flags: unix.MS_NOEXEC, Data: "mode=1777,size=65536k"}},
	} {
		got, err := ParseOptions(tc.options)
		if err != nil || got != tc.want {
			t.Errorf("%q: %+v, %v; want %+v", tc.options, got, err, tc.want)
		}
	}
}

func TestImpossibleMountOptionsAreRefused(t *testing.T) {
	for _, options := range [][]string{{"loop"}, {"noatime,remount"}, {"a\x00b"}, {strings.Repeat("x", os.Getpagesize())}} {
		if got, err := ParseOptions(options); !errors.Is(err, ErrOptions) {
			t.Errorf("%.20q: %+v, %v; want ErrOptions", options, got, err)
		}
	}
}

func FuzzParseOptions(f *testing.F) {
	f.Add("ro,noatime,data=ordered")
	f.Add("rbind,,x-a,size=1")
	f.Fuzz(func(t *testing.T, options string) {
		parsed, err := ParseOptions([]string{options})
		if err != nil {
			return
		}
		if len(parsed.Data) >= os.Getpagesize() || strings.ContainsRune(parsed.Data, 0) {
			t.Errorf("data %q cannot be given to mount(2)", parsed.Data)
		}
		again, err := ParseOptions([]string{parsed.Data})
		if err != nil || again.Data != parsed.Data || again.Flags != 0 {
			t.Errorf("%q holds a flag still: %+v, %v", parsed.Data, again, err)
		}
	})
}

func TestClonesOfAnXFSVolumeMountBesideEachOther(t *testing.T) {
	image := newImage(t, 320*mib)
	run(t, "mkfs.xfs", "-q", image)
	clone := copyOf(t, image)
	first := mountFor(t, attach(t, image), "xfs")
	if strings.Contains(run(t, "grep", first, "/proc/self/mounts"), "nouuid") {
		t.Error("the first one was mounted with nouuid")
	}
	mountFor(t, attach(t, clone), "xfs", "noatime")
}

func TestMountSaysWhatIsWrong(t *testing.T) {
	node := attach(t, newExt4(t))
	target := filepath.Join(t.TempDir(), "mnt")
	err := Mount(node, target, "xfs", MountOptions{})
	if err == nil || !strings.Contains(err.Error(), node) || !strings.Contains(err.Error(), "as xfs") {
		t.Errorf("%v, want the device and the type named", err)
	}
	if err := Mount(node, target, "nosuchfs", MountOptions{}); err == nil || !strings.Contains(err.Error(), "does not know this type") {
		t.Errorf("%v", err)
	}
}

func TestUnmountIsIdempotentAndNeverDeletesContent(t *testing.T) {
	target := mountFor(t, attach(t, newExt4(t)), "ext4")
	for range 2 {
		if err := Unmount(target); err != nil {
			t.Error(err)
		}
	}
	if _, err := os.Lstat(target); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the mount point is still there: %v", err)
	}
	folder := t.TempDir()
	full, empty := filepath.Join(folder, "full"), filepath.Join(folder, "empty")
	if err := errors.Join(os.WriteFile(full, []byte("content"), 0o600), os.WriteFile(empty, nil, 0o600)); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{folder, full, empty} {
		if err := Unmount(path); err != nil {
			t.Errorf("%s: %v", path, err)
		}
	}
	if data, err := os.ReadFile(full); err != nil || string(data) != "content" {
		t.Errorf("content is gone: %q, %v", data, err)
	}
	if _, err := os.Lstat(empty); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("an empty file that was a mount point is still there: %v", err)
	}
}

func TestUnmountOfAMountInUseIsBusy(t *testing.T) {
	target := mountFor(t, attach(t, newExt4(t)), "ext4")
	f, err := os.Open(target)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := Unmount(target); !errors.Is(err, ErrBusy) {
		t.Errorf("%v, want ErrBusy", err)
	}
}

func TestADeviceIsReleasedOnlyWithItsLastMount(t *testing.T) {
	node := attach(t, newExt4(t))
	target := mountFor(t, node, "ext4")
	other := t.TempDir()
	if err := Bind(target, other, MountOptions{}); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = unix.Unmount(other, 0) }()
	if err := Unmount(target); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Millisecond)
	defer cancel()
	if err := WaitReleased(ctx, node); !errors.Is(err, ErrBusy) {
		t.Errorf("still mounted elsewhere: %v, want ErrBusy", err)
	}
	if err := unix.Unmount(other, 0); err != nil {
		t.Fatal(err)
	}
	if err := WaitReleased(t.Context(), node); err != nil {
		t.Error(err)
	}
	if err := WaitReleased(t.Context(), "/dev/no-such-device"); err != nil {
		t.Errorf("a device that is gone is released: %v", err)
	}
}

func TestReadOnlyBind(t *testing.T) {
	source, target := t.TempDir(), t.TempDir()
	if err := Bind(source, target, MountOptions{Flags: unix.MS_RDONLY}); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = unix.Unmount(target, 0) }()
	if err := os.WriteFile(filepath.Join(target, "f"), nil, 0o600); !errors.Is(err, unix.EROFS) {
		t.Errorf("write through a read-only bind: %v, want EROFS", err)
	}
	if err := os.WriteFile(filepath.Join(source, "f"), nil, 0o600); err != nil {
		t.Errorf("the source became read-only: %v", err)
	}
}
