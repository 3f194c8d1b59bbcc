package mirror

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// volume is a folder that is written as kubelet writes configMaps and secrets.
type volume struct {
	t   *testing.T
	dir string
	n   int
}

func (v *volume) do(errs ...error) {
	v.t.Helper()
	if err := errors.Join(errs...); err != nil {
		v.t.Fatal(err)
	}
}

// update replaces the content: a new generation, the link to it exchanged, then the names that programs read, then the
// old generation.
func (v *volume) update(content map[string]string) {
	v.t.Helper()
	v.n++
	next := fmt.Sprintf("..2026_generation_%d", v.n)
	old, _ := os.Readlink(filepath.Join(v.dir, generation))
	v.do(os.Mkdir(filepath.Join(v.dir, next), 0o755))
	for name, text := range content {
		v.do(os.WriteFile(filepath.Join(v.dir, next, name), []byte(text), 0o640), os.Chown(filepath.Join(v.dir, next, name), 0, 2000))
	}
	v.do(os.Symlink(next, filepath.Join(v.dir, "..data_tmp")), os.Rename(filepath.Join(v.dir, "..data_tmp"), filepath.Join(v.dir, generation)))
	for name := range content {
		if _, err := os.Lstat(filepath.Join(v.dir, name)); err != nil {
			v.do(os.Symlink(filepath.Join(generation, name), filepath.Join(v.dir, name)))
		}
	}
	names, err := os.ReadDir(v.dir)
	v.do(err)
	for _, e := range names {
		if _, wanted := content[e.Name()]; !wanted && !strings.HasPrefix(e.Name(), "..") {
			v.do(os.Remove(filepath.Join(v.dir, e.Name())))
		}
	}
	if old != "" {
		v.do(os.RemoveAll(filepath.Join(v.dir, old)))
	}
}

// same checks that the copy is what the original is, down to owners and modes.
func same(t *testing.T, source, target string) {
	t.Helper()
	if err := compare(source, target); err != nil {
		t.Error(err)
	}
}

func compare(source, target string) error {
	list := func(dir string) (all []string, err error) {
		err = filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
			if err != nil {
				return err
			}
			info, err := d.Info()
			if err != nil {
				return err
			}
			st := info.Sys().(*syscall.Stat_t)
			line := fmt.Sprintf("%s %s %d %d", strings.TrimPrefix(path, dir), info.Mode(), st.Uid, st.Gid)
			switch info.Mode().Type() {
			case 0:
				data, err := os.ReadFile(path)
				if err != nil {
					return err
				}
				line += " " + string(data)
			case fs.ModeSymlink:
				to, _ := os.Readlink(path)
				line += " -> " + to
			}
			all = append(all, line)
			return nil
		})
		return all, err
	}
	a, errA := list(source)
	b, errB := list(target)
	if err := errors.Join(errA, errB); err != nil {
		return err
	}
	if !slices.Equal(a, b) {
		return fmt.Errorf("the original has\n%s\nand the copy\n%s", strings.Join(a, "\n"), strings.Join(b, "\n"))
	}
	return nil
}

func folders(t *testing.T) (source, target string) {
	source, target = filepath.Join(t.TempDir(), "source"), filepath.Join(t.TempDir(), "target")
	if err := errors.Join(os.Mkdir(source, 0o777), os.Mkdir(target, 0o700), os.Chmod(source, 0o777|fs.ModeSetgid), os.Chown(source, 0, 2000)); err != nil {
		t.Fatal(err)
	}
	return source, target
}

func start(t *testing.T, source, target string) *Mirror {
	t.Helper()
	m, err := Start(source, target)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := m.Close(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return m
}

func TestTheCopyFollowsAConfigMap(t *testing.T) {
	source, target := folders(t)
	v := &volume{t: t, dir: source}
	v.update(map[string]string{"a": "1", "b": "1"})
	start(t, source, target)
	same(t, source, target)
	for _, content := range []map[string]string{{"a": "2", "b": "2"}, {"a": "3", "c": "3"}, {}, {"d": ""}} {
		v.update(content)
		for limit := time.Now().Add(10 * interval); compare(source, target) != nil && time.Now().Before(limit); {
			time.Sleep(interval / 10)
		}
		same(t, source, target)
	}
}

func TestNamesThatComeAfterTheGenerationAreNotMissed(t *testing.T) {
	source, target := folders(t)
	v := &volume{t: t, dir: source}
	v.update(map[string]string{"a": "1"})
	m := &Mirror{}
	m.source, _ = os.OpenRoot(source)
	m.target, _ = os.OpenRoot(target)
	defer m.source.Close()
	defer m.target.Close()
	// kubelet is caught in the middle: the generation is there, the name that leads to it is not.
	if err := os.Remove(filepath.Join(source, "a")); err != nil {
		t.Fatal(err)
	}
	for i := range 4 {
		if err := m.sync(); err != nil {
			t.Fatal(err)
		}
		if i == 0 {
			if err := os.Symlink("..data/a", filepath.Join(source, "a")); err != nil {
				t.Fatal(err)
			}
		}
	}
	same(t, source, target)
	if !m.settled {
		t.Error("it is never at rest")
	}
}

func TestAReaderNeverSeesTwoGenerationsAtOnce(t *testing.T) {
	source, target := folders(t)
	v := &volume{t: t, dir: source}
	v.update(map[string]string{"a": "0", "b": "0"})
	m := start(t, source, target)
	m.end() // from here on by hand, and faster
	<-m.ended
	end := make(chan struct{})
	var reader sync.WaitGroup
	reader.Go(func() {
		for {
			select {
			case <-end:
				return
			default:
			}
			dir, err := os.OpenRoot(filepath.Join(target, generation))
			if err != nil {
				t.Errorf("no generation: %v", err)
				return
			}
			a, errA := dir.ReadFile("a")
			b, errB := dir.ReadFile("b")
			dir.Close()
			// A generation that has been taken away meanwhile is one that was read too late, as on the original.
			if errA == nil && errB == nil && string(a) != string(b) {
				t.Errorf("a is of generation %s, b of %s", a, b)
			}
			data, err := os.ReadFile(filepath.Join(target, "a"))
			if errors.Is(err, fs.ErrNotExist) { // its generation may have been taken away on the way to it
				data, err = os.ReadFile(filepath.Join(target, "a"))
			}
			if errors.Is(err, fs.ErrNotExist) {
				t.Error("there was no a for a moment")
			} else if err == nil && len(data) == 0 {
				t.Error("a was empty for a moment")
			}
		}
	})
	for i := range 200 {
		v.update(map[string]string{"a": fmt.Sprint(i), "b": fmt.Sprint(i)})
		if err := m.sync(); err != nil {
			t.Fatal(err)
		}
	}
	close(end)
	reader.Wait()
	same(t, source, target)
}

func TestInotifyTellsOfTheExchange(t *testing.T) {
	source, target := folders(t)
	v := &volume{t: t, dir: source}
	v.update(map[string]string{"a": "1"})
	start(t, source, target)
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	if _, err := unix.InotifyAddWatch(fd, target, unix.IN_MOVED_TO); err != nil {
		t.Fatal(err)
	}
	v.update(map[string]string{"a": "2"})
	fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
	if n, err := unix.Poll(fds, int((5 * interval).Milliseconds())); err != nil || n != 1 {
		t.Fatalf("no event: %d, %v", n, err)
	}
	buffer := make([]byte, 4096)
	n, err := unix.Read(fd, buffer)
	if err != nil || !strings.Contains(string(buffer[:n]), generation) {
		t.Errorf("event %q, %v", buffer[:n], err)
	}
	if data, err := os.ReadFile(filepath.Join(target, "a")); err != nil || string(data) != "2" {
		t.Errorf("with the event a is %q, %v", data, err)
	}
}

func TestAnOrdinaryFolderIsFollowedToo(t *testing.T) {
	source, target := folders(t)
	do := func(errs ...error) {
		t.Helper()
		if err := errors.Join(errs...); err != nil {
			t.Fatal(err)
		}
	}
	in := func(name string) string { return filepath.Join(source, name) }
	do(os.MkdirAll(in("deep/deeper"), 0o755), os.WriteFile(in("deep/deeper/file"), []byte("1"), 0o600), os.WriteFile(in("thing"), nil, 0o600), os.Symlink("/etc/passwd", in("out")))
	m := start(t, source, target)
	m.end()
	<-m.ended
	same(t, source, target)
	// Everything changes its kind.
	do(os.RemoveAll(in("deep")), os.WriteFile(in("deep"), []byte("now a file"), 0o644), os.Remove(in("thing")), os.MkdirAll(in("thing/x"), 0o700),
		os.Remove(in("out")), os.Mkdir(in("out"), 0o700))
	do(m.sync())
	same(t, source, target)
	do(os.RemoveAll(in("thing")), os.Symlink("deep", in("thing")), os.RemoveAll(in("out")), os.WriteFile(in("out"), []byte("x"), 0o4755))
	do(m.sync())
	same(t, source, target)
}

func TestWhatCannotBeCopiedIsRefused(t *testing.T) {
	for _, tc := range []struct {
		name string
		make func(dir string) error
	}{
		{"too many", func(dir string) error {
			for i := range MaxEntries {
				if err := os.WriteFile(filepath.Join(dir, fmt.Sprint(i)), nil, 0o600); err != nil {
					return err
				}
			}
			return nil
		}},
		{"too much", func(dir string) error { return os.WriteFile(filepath.Join(dir, "a"), make([]byte, MaxBytes+1), 0o600) }},
		{"a FIFO", func(dir string) error { return unix.Mkfifo(filepath.Join(dir, "a"), 0o600) }},
	} {
		t.Run(tc.name, func(t *testing.T) {
			source, target := folders(t)
			if err := tc.make(source); err != nil {
				t.Fatal(err)
			}
			if _, err := Start(source, target); !errors.Is(err, ErrTooLarge) {
				t.Errorf("error %v", err)
			}
		})
	}
}

func TestACopyThatCouldNotBeWrittenIsWrittenTheNextTime(t *testing.T) {
	source, target := folders(t)
	v := &volume{t: t, dir: source}
	v.update(map[string]string{"a": "1"})
	if err := unix.Mount("none", target, "tmpfs", 0, "size=64k"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Unmount(target, unix.MNT_DETACH) })
	m := start(t, source, target)
	m.end()
	<-m.ended
	v.update(map[string]string{"a": strings.Repeat("x", 100_000), "b": "2"})
	if err := m.sync(); !errors.Is(err, unix.ENOSPC) {
		t.Fatalf("100 kB into 64: %v", err)
	}
	if data, err := os.ReadFile(filepath.Join(target, "a")); err != nil || string(data) != "1" {
		t.Errorf("after the failure a is %q, %v", data, err)
	}
	v.update(map[string]string{"a": "3"})
	if err := m.sync(); err != nil {
		t.Fatal(err)
	}
	same(t, source, target)
}

// The share's other end may hang, and a look at it with it.
func TestCloseGivesUpOnALookThatTakesTooLongAndCanBeRepeated(t *testing.T) {
	source, err := os.OpenRoot(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	target, err := os.OpenRoot(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	m := &Mirror{source: source, target: target, end: func() {}, ended: make(chan struct{})}
	ctx, giveUp := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer giveUp()
	if err := m.Close(ctx); !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), source.Name()) {
		t.Errorf("%v, want the end of the wait, with the folder", err)
	}
	close(m.ended)
	if err := m.Close(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestWhatIsGoneIsAskedForAgainButNotForEver(t *testing.T) {
	v := &volume{t: t, dir: t.TempDir()}
	v.update(map[string]string{"a": "1", "b": "2"})
	m := &Mirror{gone: map[string]int{}}
	for dir, root := range map[string]**os.Root{v.dir: &m.source, t.TempDir(): &m.target} {
		var err error
		if *root, err = os.OpenRoot(dir); err != nil {
			t.Fatal(err)
		}
		defer (*root).Close()
	}
	v.do(m.sync())
	if len(m.gone) > 0 {
		t.Errorf("at the beginning: %v", m.gone)
	}
	v.update(map[string]string{"a": "3"})
	v.do(m.sync())
	for _, name := range []string{"b", "..2026_generation_1", "..2026_generation_1/a"} {
		if _, asked := m.gone[name]; !asked {
			t.Errorf("%s will not be asked for: %v", name, m.gone)
		}
	}
	m.gone["a"] = 0 // as one that the kernel still has
	for range asks {
		v.do(m.sync())
	}
	if len(m.gone) > 0 {
		t.Errorf("still asked for: %v", m.gone)
	}
}
