package storage

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/katadirect/katadirect/pkg/agentproto"
)

func TestSharedStoragesStayUntilTheEnd(t *testing.T) {
	r := newRig(t)
	disk := r.disk(ifBlankOption)
	disk.Shared = true
	memory := &agentproto.Storage{
		Driver: "ephemeral", Source: "tmpfs", Fstype: "tmpfs", MountPoint: filepath.Join(r.dir, "memory"),
		Options: []string{"size=1048576", "mode=0700", "fsgid=12"},
	}
	for _, s := range []*agentproto.Storage{disk, memory} {
		r.add(s)
		r.release(s)
		if !isMounted(s.MountPoint) {
			t.Errorf("%s is gone", s.MountPoint)
		}
		r.add(s)
	}
	var st unix.Stat_t
	if err := unix.Stat(memory.MountPoint, &st); err != nil || st.Gid != 12 || st.Mode&0o7777 != unix.S_ISGID|0o700 {
		t.Errorf("group %d, mode %o, %v", st.Gid, st.Mode, err)
	}
	if err := r.ReleaseAll(t.Context()); err != nil {
		t.Error(err)
	}
	if isMounted(disk.MountPoint) || isMounted(memory.MountPoint) {
		t.Error("mounted after the end")
	}
}

func TestBindsOfFilesAndFolders(t *testing.T) {
	r := newRig(t)
	folder, file := filepath.Join(r.dir, "folder"), filepath.Join(r.dir, "file")
	if err := errors.Join(os.Mkdir(folder, 0o755), os.WriteFile(file, []byte("content"), 0o644)); err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct{ driver, source string }{{"bind", folder}, {"watchable-bind", file}} {
		s := &agentproto.Storage{Driver: tc.driver, Source: tc.source, MountPoint: filepath.Join(r.dir, "at", filepath.Base(tc.source))}
		r.add(s)
		var a, b unix.Stat_t
		if err := errors.Join(unix.Stat(tc.source, &a), unix.Stat(s.MountPoint, &b)); err != nil || a.Ino != b.Ino {
			t.Errorf("%s: inode %d at %d, %v", tc.source, a.Ino, b.Ino, err)
		}
	}
	missing := &agentproto.Storage{Driver: "bind", Source: "/no/such/thing", MountPoint: filepath.Join(r.dir, "at", "missing")}
	if err := r.Add(t.Context(), missing); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("%v, want ErrNotExist", err)
	}
}

// A link that a user of the volume has planted must not lead out of it.
func TestAGroupIsNeverAppliedThroughALink(t *testing.T) {
	volume, outside := t.TempDir(), filepath.Join(t.TempDir(), "outside")
	if err := os.WriteFile(outside, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(os.Symlink(outside, filepath.Join(volume, "link")), os.Symlink("/", filepath.Join(volume, "root")),
		os.WriteFile(filepath.Join(volume, "file"), nil, 0o604)); err != nil {
		t.Fatal(err)
	}
	if err := applyGroup(t.Context(), volume, &agentproto.FSGroup{GroupId: 4321}, false); err != nil {
		t.Fatal(err)
	}
	look := func(path string) string {
		t.Helper()
		info, err := os.Lstat(path)
		if err != nil {
			t.Fatal(err)
		}
		return fmt.Sprintf("%d %o", info.Sys().(*syscall.Stat_t).Gid, info.Mode().Perm())
	}
	for path, want := range map[string]string{
		outside: "0 600", filepath.Join(volume, "link"): "4321 777", filepath.Join(volume, "file"): "4321 664",
	} {
		if got := look(path); got != want {
			t.Errorf("%s: %s, want %s", path, got, want)
		}
	}
}
