package storage

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/katadirect/katadirect/pkg/agentproto"
)

const aGroup = 4321

func groupOf(t *testing.T, path string) uint32 {
	t.Helper()
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); err != nil {
		t.Fatal(err)
	}
	return st.Gid
}

// manyFiles fills the volume with more files than can be handed over in a moment.
func manyFiles(t *testing.T, dir string) {
	t.Helper()
	for i := range 10000 {
		if err := unix.Mknod(filepath.Join(dir, fmt.Sprint(i)), unix.S_IFREG|0o600, 0); err != nil {
			t.Fatal(err)
		}
	}
}

// A shim waits a minute. A volume that takes longer to hand over would never be mounted.
func TestAHandOverGoesOnWithoutTheShimAndIsNotDoneAgain(t *testing.T) {
	r := newRig(t)
	s := r.disk(ifBlankOption)
	r.add(s)
	manyFiles(t, s.MountPoint)
	r.release(s)

	s.FsGroup = &agentproto.FSGroup{GroupId: aGroup}
	ctx, giveUp := context.WithCancel(t.Context())
	r.handing = func(context.Context) { giveUp() }
	if err := r.Add(ctx, s); !errors.Is(err, context.Canceled) {
		t.Fatalf("a shim that has given up got %v", err)
	}
	if isMounted(s.MountPoint) {
		t.Fatal("mounted for nobody")
	}
	// What a second walk would change shows whether there is one.
	s.FsGroup = nil
	r.add(s)
	witness := filepath.Join(s.MountPoint, "4999")
	for i := range 10000 {
		if got := groupOf(t, filepath.Join(s.MountPoint, fmt.Sprint(i))); got != aGroup {
			t.Fatalf("file %d has group %d: the work was cut short", i, got)
		}
	}
	if err := os.Chown(witness, -1, 77); err != nil {
		t.Fatal(err)
	}
	r.release(s)
	s.FsGroup = &agentproto.FSGroup{GroupId: aGroup}
	r.add(s)
	if got := groupOf(t, witness); got != 77 {
		t.Error("all of it was done once more")
	}
	r.release(s)
	r.add(s) // somebody has had the volume meanwhile
	if got := groupOf(t, witness); got != aGroup {
		t.Errorf("the next user's group is %d: the policy Always was not heeded", got)
	}
}

func TestTheEndOfTheSandboxCutsAHandOverShort(t *testing.T) {
	r := newRig(t)
	s := r.disk(ifBlankOption)
	r.add(s)
	manyFiles(t, s.MountPoint)
	r.release(s)
	s.FsGroup = &agentproto.FSGroup{GroupId: aGroup}
	added := make(chan error, 1)
	handing := make(chan struct{})
	r.handing = func(work context.Context) {
		close(handing)
		select {
		case <-work.Done():
		case <-time.After(20 * time.Second): // it is not cut short, as will be seen
		}
	}
	go func() { added <- r.Add(context.Background(), s) }()
	<-handing
	if err := r.ReleaseAll(t.Context()); err != nil {
		t.Error(err)
	}
	if err := <-added; err != nil && !errors.Is(err, context.Canceled) {
		t.Errorf("the hand-over ended with %v", err)
	} else if err == nil {
		t.Error("the end of the sandbox has waited for all of it")
	}
	if isMounted(s.MountPoint) {
		t.Error("still mounted")
	}
}

func TestAHandOverKeepsWhatElseAModeSays(t *testing.T) {
	dir := t.TempDir()
	deep := filepath.Join(dir, "a/b/c")
	if err := os.MkdirAll(deep, 0o711); err != nil {
		t.Fatal(err)
	}
	setuid, fifo := filepath.Join(deep, "setuid"), filepath.Join(dir, "fifo")
	if err := errors.Join(os.WriteFile(setuid, nil, 0o755), os.Chmod(setuid, os.ModeSetuid|0o755), unix.Mkfifo(fifo, 0o600)); err != nil {
		t.Fatal(err)
	}
	if err := applyGroup(t.Context(), dir, &agentproto.FSGroup{GroupId: aGroup}, false); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]uint32{dir: 0o2775, deep: 0o2771 | 0o60, setuid: 0o4775, fifo: 0o660} {
		var st unix.Stat_t
		if err := unix.Lstat(path, &st); err != nil || st.Mode&0o7777 != want || st.Gid != aGroup {
			t.Errorf("%s: mode %o, want %o; group %d, %v", path, st.Mode&0o7777, want, st.Gid, err)
		}
	}
}

func TestAVolumeOfEndlessDepthIsRefusedAndNotFollowed(t *testing.T) {
	dir := t.TempDir()
	fd, err := unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		t.Fatal(err)
	}
	for range unix.PathMax/2 + 2 {
		err := unix.Mkdirat(fd, "d", 0o755)
		next, openErr := unix.Openat(fd, "d", unix.O_RDONLY|unix.O_DIRECTORY, 0)
		if err := errors.Join(err, openErr, unix.Close(fd)); err != nil {
			t.Fatal(err)
		}
		fd = next
	}
	defer unix.Close(fd)
	if err := applyGroup(t.Context(), dir, &agentproto.FSGroup{GroupId: aGroup}, false); !errors.Is(err, ErrRequest) {
		t.Errorf("%v, want ErrRequest", err)
	}
	if groupOf(t, dir) == aGroup {
		t.Error("the root folder says that all is done")
	}
}
