package storage

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/katadirect/katadirect/internal/rollback"
	"github.com/katadirect/katadirect/pkg/agent/mirror"
	"github.com/katadirect/katadirect/pkg/agentproto"
)

// onReadOnly mounts a folder read-only, as the share is to the guest, with the folder in it that Kata's shims make for
// copies.
func onReadOnly(t *testing.T, r *rig) string {
	t.Helper()
	share := filepath.Join(r.dir, "share")
	if err := errors.Join(os.MkdirAll(share+"/watchable", 0o755), os.MkdirAll(share+"/settings", 0o755),
		unix.Mount(share, share, "", unix.MS_BIND, ""), unix.Mount("", share, "", unix.MS_BIND|unix.MS_REMOUNT|unix.MS_RDONLY, "")); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Unmount(share, unix.MNT_DETACH) })
	return share
}

func TestAWatchedFolderIsCopiedForAsLongAsItIsUsed(t *testing.T) {
	r := newRig(t)
	share := onReadOnly(t, r)
	source := t.TempDir()
	write := func(text string) {
		t.Helper()
		if err := errors.Join(os.WriteFile(source+"/new", []byte(text), 0o600), os.Rename(source+"/new", source+"/file")); err != nil {
			t.Fatal(err)
		}
	}
	write("one")
	s := &agentproto.Storage{Driver: "watchable-bind", Source: source, MountPoint: filepath.Join(share, "watchable", "settings")}
	other := &agentproto.Storage{Driver: "watchable-bind", Source: t.TempDir(), MountPoint: filepath.Join(share, "watchable", "other")}
	read := func() string { data, _ := os.ReadFile(s.MountPoint + "/file"); return string(data) }
	r.add(s)
	r.add(other)
	r.add(s)
	if read() != "one" {
		t.Errorf("at first %q", read())
	}
	r.release(s)
	write("two")
	for deadline := time.Now().Add(20 * time.Second); read() != "two" && time.Now().Before(deadline); {
		time.Sleep(10 * time.Millisecond)
	}
	if read() != "two" {
		t.Errorf("later %q", read())
	}
	r.release(s)
	if isMounted(s.MountPoint) || !isMounted(other.MountPoint) {
		t.Error("released with its last user, and with nobody else's")
	}
	r.add(s) // the place can be used again
	if err := r.ReleaseAll(t.Context()); err != nil {
		t.Error(err)
	}
	if isMounted(s.MountPoint) || isMounted(other.MountPoint) || isMounted(share+"/watchable") {
		t.Error("mounted after the end")
	}
}

func TestAWatchedFolderThatCannotBeCopiedIsShownAsItIs(t *testing.T) {
	r := newRig(t)
	source := t.TempDir()
	if err := os.WriteFile(source+"/big", make([]byte, mirror.MaxBytes+1), 0o600); err != nil {
		t.Fatal(err)
	}
	s := &agentproto.Storage{Driver: "watchable-bind", Source: source, MountPoint: filepath.Join(r.dir, "at")}
	r.add(s)
	var a, b unix.Stat_t
	if err := errors.Join(unix.Stat(source, &a), unix.Stat(s.MountPoint, &b)); err != nil || a.Ino != b.Ino || a.Dev != b.Dev {
		t.Errorf("%v", err)
	}
	r.release(s)
	if isMounted(s.MountPoint) {
		t.Error("still mounted")
	}
}

func TestHugePagesAreReservedOrRefused(t *testing.T) {
	defer func(real string) { hugePages = real }(hugePages)
	hugePages = t.TempDir()
	pool := filepath.Join(hugePages, "hugepages-2048kB", "nr_hugepages")
	if err := errors.Join(os.Mkdir(filepath.Dir(pool), 0o755), os.WriteFile(pool, []byte("3\n"), 0o600)); err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		options string
		err     error
		want    string
	}{
		{"pagesize=2097152,size=4194305", nil, "6"},
		{"mode=0755,size=4194304", nil, "6"},
		{"pagesize=2097152", nil, "6"},
		{"pagesize=1073741824,size=1", ErrRequest, "6"},
		{"pagesize=2097152,size=-1", ErrRequest, "6"},
		{"pagesize=2M,size=1", ErrRequest, "6"},
	} {
		if err := reserveHugePages(&rollback.Stack{}, tc.options); !errors.Is(err, tc.err) {
			t.Errorf("%s: %v, want %v", tc.options, err, tc.err)
		}
		if got, err := os.ReadFile(pool); err != nil || string(got) != tc.want {
			t.Errorf("%s: the pool has %q, %v; want %s", tc.options, got, err, tc.want)
		}
	}
	// A container whose memory cannot be mounted is tried again and again.
	r := newRig(t)
	s := &agentproto.Storage{Driver: "ephemeral", Source: "nodev", Fstype: "hugetlbfs", MountPoint: filepath.Join(r.dir, "huge"),
		Options: []string{"pagesize=2097152", "size=4194304", "nonsense=1"}}
	if err := r.Add(t.Context(), s); err == nil {
		t.Error("mounted with an option that there is not")
	}
	if got, err := os.ReadFile(pool); err != nil || string(got) != "6" {
		t.Errorf("after a mount that failed the pool has %q, %v; want 6", got, err)
	}
}
