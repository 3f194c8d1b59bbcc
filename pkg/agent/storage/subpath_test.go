package storage

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/katadirect/katadirect/internal/filesystem"
	"github.com/katadirect/katadirect/pkg/agentproto"
)

// part is the message for a part of a volume.
func (r *rig) part(volume *agentproto.Storage, inside string) *agentproto.Storage {
	return &agentproto.Storage{
		Driver: DriverSubPath, Source: volume.MountPoint, DriverOptions: []string{OptionSubPath + "=" + inside},
		MountPoint: filepath.Join(r.dir, fmt.Sprintf("part-%x", inside)),
	}
}

func TestAMissingPartOfAVolumeIsMadeLikeItsRoot(t *testing.T) {
	r := newRig(t)
	v := r.disk(ifBlankOption)
	v.FsGroup = &agentproto.FSGroup{GroupId: 1000}
	r.add(v)
	if err := os.Symlink("real", v.MountPoint+"/link"); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(v.MountPoint+"/real", 0o700); err != nil {
		t.Fatal(err)
	}
	p := r.part(v, "link/a/b")
	old := unix.Umask(0o077) // it has no say
	r.add(p)
	unix.Umask(old)
	if err := os.WriteFile(p.MountPoint+"/file", []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, dir := range []string{"real/a", "real/a/b"} {
		var stat unix.Stat_t
		if err := unix.Lstat(filepath.Join(v.MountPoint, dir), &stat); err != nil || stat.Mode&0o7777 != 0o2775 || stat.Gid != 1000 {
			t.Errorf("%s: mode %o, group %d, %v", dir, stat.Mode, stat.Gid, err)
		}
	}
	if _, err := os.Stat(v.MountPoint + "/real/a/b/file"); err != nil {
		t.Error(err)
	}
	r.release(p)
	if isMounted(p.MountPoint) {
		t.Error("still mounted")
	}
	r.release(v) // and the volume is free
	// A container that is made again and again has another place each time.
	if known := r.MountPoints(); len(known) != 0 {
		t.Errorf("remembered although nothing is there: %v", known)
	}
}

func TestAPartOfAReadOnlyVolumeHasToBeThere(t *testing.T) {
	r := newRig(t)
	v := r.disk(ifBlankOption)
	r.add(v)
	if err := os.Mkdir(v.MountPoint+"/there", 0o755); err != nil {
		t.Fatal(err)
	}
	r.release(v)
	v.Options = []string{"ro"}
	r.add(v)
	r.add(r.part(v, "there"))
	if err := r.Add(t.Context(), r.part(v, "there/missing")); !errors.Is(err, ErrReadOnly) {
		t.Errorf("%v, want ErrReadOnly", err)
	}
}

func TestAFileCanBeAPartOfAVolume(t *testing.T) {
	r := newRig(t)
	v := r.disk(ifBlankOption)
	r.add(v)
	if err := os.WriteFile(v.MountPoint+"/config", []byte("blue"), 0o600); err != nil {
		t.Fatal(err)
	}
	p := r.part(v, "config")
	r.add(p)
	if got, err := os.ReadFile(p.MountPoint); err != nil || string(got) != "blue" {
		t.Errorf("%q, %v", got, err)
	}
	r.release(p)
	if _, err := os.Lstat(p.MountPoint); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the mount point is left: %v", err)
	}
}

func TestNoPartLeadsOutOfTheVolume(t *testing.T) {
	r := newRig(t)
	v := r.disk(ifBlankOption)
	r.add(v)
	outside := t.TempDir()
	for name, to := range map[string]string{
		"absolute": outside, "up": "../../../../../../.." + outside, "self": "self", "proc": "/proc/self/root",
		"dangling": "nothing/here", "up-dangling": "../x",
	} {
		if err := os.Symlink(to, filepath.Join(v.MountPoint, name)); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(v.MountPoint+"/file", nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for inside, want := range map[string]error{
		"absolute": ErrSubPath, "absolute/new": ErrSubPath, "up": ErrSubPath, "up/new": ErrSubPath, "self": ErrSubPath,
		"proc": ErrSubPath, "proc/etc": ErrSubPath, "dangling": ErrSubPath, "up-dangling": ErrSubPath, "file/new": ErrSubPath,
		"../x": ErrRequest, "a/../../x": ErrRequest, "/etc": ErrRequest, "": ErrRequest, "..": ErrRequest,
	} {
		p := r.part(v, inside)
		if err := r.Add(t.Context(), p); !errors.Is(err, want) {
			t.Errorf("%q: %v, want %v", inside, err, want)
		}
		if isMounted(p.MountPoint) {
			t.Errorf("%q is mounted", inside)
		}
		if _, err := os.Lstat(p.MountPoint); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%q has left its mount point: %v", inside, err)
		}
	}
	if known := r.MountPoints(); len(known) != 1 {
		t.Errorf("remembered beside the volume: %v", known)
	}
	if left, err := os.ReadDir(outside); err != nil || len(left) > 0 {
		t.Errorf("made outside: %v, %v", left, err)
	}
	if err := r.Add(t.Context(), r.part(&agentproto.Storage{MountPoint: outside}, "x")); !errors.Is(err, ErrNotMounted) {
		t.Errorf("a part of what is no volume: %v", err)
	}
}

// A container swaps a folder for a link all the while the agent opens it.
func TestAPartThatIsExchangedMeanwhileNeverLeadsOut(t *testing.T) {
	r := newRig(t)
	v := r.disk(ifBlankOption)
	r.add(v)
	outside := t.TempDir()
	at := func(name string) string { return filepath.Join(v.MountPoint, name) }
	if err := errors.Join(os.Mkdir(at("a"), 0o755), os.Symlink(outside, at("b"))); err != nil {
		t.Fatal(err)
	}
	stop := make(chan struct{})
	var swapping sync.WaitGroup
	swapping.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
				_ = unix.Renameat2(unix.AT_FDCWD, at("a"), unix.AT_FDCWD, at("b"), unix.RENAME_EXCHANGE)
			}
		}
	})
	for range 300 {
		p := r.part(v, "a/new")
		err := r.Add(t.Context(), p)
		if err == nil {
			m, lookErr := filesystem.MountAt(p.MountPoint)
			if lookErr != nil || m.Source != v.Source {
				t.Errorf("mounted from %q, %v", m.Source, lookErr)
			}
			r.release(p)
		} else if !errors.Is(err, ErrSubPath) {
			t.Error(err)
		}
		_ = os.Remove(at("a/new"))
		_ = os.Remove(at("b/new"))
	}
	close(stop)
	swapping.Wait()
	if left, err := os.ReadDir(outside); err != nil || len(left) > 0 {
		t.Errorf("made outside: %v, %v", left, err)
	}
}

func TestTheEndOfTheSandboxTakesPartsBeforeTheirVolumes(t *testing.T) {
	r := newRig(t)
	v := r.disk(ifBlankOption)
	r.add(v)
	p := r.part(v, "x")
	p.MountPoint = filepath.Join(r.dir, "aaa") // comes after the volume in any order of names
	r.add(p)
	if err := r.ReleaseAll(t.Context()); err != nil {
		t.Fatal(err)
	}
	if isMounted(p.MountPoint) || isMounted(v.MountPoint) {
		t.Error("still mounted")
	}
}
