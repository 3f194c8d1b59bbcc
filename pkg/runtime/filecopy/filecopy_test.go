package filecopy

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/katadirect/katadirect/pkg/agentproto"
	"github.com/katadirect/katadirect/pkg/runtime/share"
)

// guest does with copies what an agent does, in a folder of its own.
type guest struct {
	dir string

	mu    sync.Mutex
	calls int
	fail  error
}

func (g *guest) CopyFile(ctx context.Context, r *agentproto.CopyFileRequest) (*agentproto.Empty, error) {
	if err := ctx.Err(); err != nil { // it would not reach an agent
		return nil, err
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.calls++
	if g.fail != nil {
		return nil, g.fail
	}
	if len(r.GetData()) > piece {
		return nil, fmt.Errorf("a piece of %d bytes", len(r.GetData()))
	}
	name, ok := strings.CutPrefix(r.GetPath(), share.GuestDir+"/")
	if !ok {
		return nil, fmt.Errorf("%q is elsewhere", r.GetPath())
	}
	to := filepath.Join(g.dir, name)
	switch r.GetFileMode() & unix.S_IFMT {
	case unix.S_IFDIR:
		if err := os.Mkdir(to, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
			return nil, err
		}
	case unix.S_IFLNK:
		_ = os.Remove(to)
		return nil, os.Symlink(string(r.GetData()), to)
	case unix.S_IFREG:
		flags := os.O_WRONLY | os.O_CREATE
		if r.GetOffset() == 0 {
			flags |= os.O_TRUNC
		}
		f, err := os.OpenFile(to, flags, 0o600)
		if err != nil {
			return nil, err
		}
		defer f.Close()
		if _, err := f.WriteAt(r.GetData(), r.GetOffset()); err != nil {
			return nil, err
		}
	}
	return nil, errors.Join(os.Lchown(to, int(r.GetUid()), int(r.GetGid())), unix.Chmod(to, r.GetFileMode()&0o7777))
}

func (g *guest) called() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.calls
}

func newCopies(t *testing.T) (*Copies, *guest) {
	t.Helper()
	g := &guest{dir: t.TempDir()}
	c := New(func() Guest { return g }, slog.New(slog.DiscardHandler))
	c.every = 10 * time.Millisecond
	t.Cleanup(func() { _ = c.Close(context.Background()) })
	return c, g
}

func must(t *testing.T, errs ...error) {
	t.Helper()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
}

// bound copies and returns where a test finds the copy.
func bound(t *testing.T, c *Copies, g *guest, source string, readOnly bool) string {
	t.Helper()
	guestPath, err := c.Bind(t.Context(), "c1", source, "/in/the/container", readOnly)
	must(t, err)
	name, ok := strings.CutPrefix(guestPath, share.GuestDir+"/")
	if !ok || !strings.HasPrefix(name, "c1-") || !strings.HasSuffix(name, "-container") {
		t.Fatalf("the guest has it at %s", guestPath)
	}
	return filepath.Join(g.dir, name)
}

// write makes the next generation of a volume, as kubelet does.
func write(t *testing.T, volume string, generation int, content map[string]string) {
	t.Helper()
	next := fmt.Sprintf("..generation_%d", generation)
	old, _ := os.Readlink(filepath.Join(volume, "..data"))
	must(t, os.Mkdir(filepath.Join(volume, next), 0o755))
	for name, text := range content {
		must(t, os.WriteFile(filepath.Join(volume, next, name), []byte(text), 0o640))
	}
	must(t, os.Symlink(next, filepath.Join(volume, "..tmp")), os.Rename(filepath.Join(volume, "..tmp"), filepath.Join(volume, "..data")))
	for name := range content {
		if err := os.Symlink(filepath.Join("..data", name), filepath.Join(volume, name)); !errors.Is(err, fs.ErrExist) {
			must(t, err)
		}
	}
	if old != "" {
		must(t, os.RemoveAll(filepath.Join(volume, old)))
	}
}

func TestAFileIsCopiedWithItsOwnerAndMode(t *testing.T) {
	c, g := newCopies(t)
	source := filepath.Join(t.TempDir(), "hosts")
	want := bytes.Repeat([]byte("0123456789"), 60_000) // some pieces
	must(t, os.WriteFile(source, want, 0o600), os.Chown(source, 7, 8), os.Chmod(source, 0o644))
	link := filepath.Join(t.TempDir(), "link")
	must(t, os.Symlink(source, link))
	for _, path := range []string{source, link} {
		copied := bound(t, c, g, path, false)
		got, err := os.ReadFile(copied)
		if err != nil || !bytes.Equal(got, want) {
			t.Errorf("%d bytes, %v", len(got), err)
		}
		var st unix.Stat_t
		must(t, unix.Lstat(copied, &st))
		if st.Mode != unix.S_IFREG|0o644 || st.Uid != 7 || st.Gid != 8 {
			t.Errorf("mode %o, owner %d:%d", st.Mode, st.Uid, st.Gid)
		}
	}
	empty := filepath.Join(t.TempDir(), "termination-log")
	must(t, os.WriteFile(empty, nil, 0o666))
	if info, err := os.Stat(bound(t, c, g, empty, false)); err != nil || info.Size() != 0 {
		t.Errorf("%v, %v", info, err)
	}
}

func TestAFolderIsCopiedAndFollowed(t *testing.T) {
	c, g := newCopies(t)
	volume := t.TempDir()
	write(t, volume, 1, map[string]string{"colour": "red", "size": "big"})
	copied := bound(t, c, g, volume, true)
	read := func(name string) string {
		data, _ := os.ReadFile(filepath.Join(copied, name))
		return string(data)
	}
	if read("colour") != "red" || read("size") != "big" {
		t.Errorf("%q, %q", read("colour"), read("size"))
	}
	before := g.called()
	time.Sleep(5 * c.every)
	if now := g.called(); now != before {
		t.Errorf("%d calls for a folder that does not change", now-before)
	}
	write(t, volume, 2, map[string]string{"colour": "blue", "new": "here"})
	for deadline := time.Now().Add(20 * time.Second); read("colour") != "blue" || read("new") != "here"; time.Sleep(c.every) {
		if time.Now().After(deadline) {
			t.Fatalf("still %q, %q", read("colour"), read("new"))
		}
	}
	if got := read("size"); got != "" {
		t.Errorf("what is gone still has %q", got)
	}
	must(t, c.Release(t.Context(), "c1"))
	time.Sleep(2 * c.every) // a look may be under way
	before = g.called()
	write(t, volume, 3, map[string]string{"colour": "green"})
	time.Sleep(5 * c.every)
	if g.called() != before {
		t.Error("it is followed after its container")
	}
}

func TestACopyThatFailsIsTriedAgain(t *testing.T) {
	c, g := newCopies(t)
	volume := t.TempDir()
	write(t, volume, 1, map[string]string{"colour": "red"})
	copied := bound(t, c, g, volume, true)
	g.mu.Lock()
	g.fail = errors.New("not now")
	g.mu.Unlock()
	write(t, volume, 2, map[string]string{"colour": "blue"})
	before := g.called()
	for g.called() < before+3 {
		time.Sleep(time.Millisecond)
	}
	g.mu.Lock()
	g.fail = nil
	g.mu.Unlock()
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(c.every) {
		if data, _ := os.ReadFile(filepath.Join(copied, "colour")); string(data) == "blue" {
			return
		}
		if time.Now().After(deadline) {
			t.Fatal("the copy stays old")
		}
	}
}

func TestWhatACopyCannotStandInForIsRefusedByName(t *testing.T) {
	c, g := newCopies(t)
	dir := t.TempDir()
	at := func(name string) string { return filepath.Join(dir, name) }
	l, err := net.Listen("unix", at("socket"))
	must(t, err)
	defer l.Close()
	must(t, unix.Mkfifo(at("fifo"), 0o600), os.WriteFile(at("large"), nil, 0o600), os.Truncate(at("large"), MaxBytes+1))
	for _, sub := range []string{"many", "folder", "special"} {
		must(t, os.Mkdir(at(sub), 0o755))
	}
	for i := range MaxEntries {
		must(t, os.WriteFile(at(fmt.Sprintf("many/%d", i)), nil, 0o600))
	}
	must(t, unix.Mkfifo(at("special/fifo"), 0o600))
	for name, readOnly := range map[string]bool{
		"socket": false, "fifo": false, "large": false, "many": true, "folder": false, "special": true,
	} {
		_, err := c.Bind(t.Context(), "c1", at(name), "/x", readOnly)
		if !errors.Is(err, ErrNoShare) || !strings.Contains(err.Error(), at(name)) {
			t.Errorf("%s: %v, want ErrNoShare with the path", name, err)
		}
	}
	if _, err := c.Bind(t.Context(), "c1", at("none"), "/x", true); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("nothing: %v", err)
	}
	if _, err := c.Rootfs(t.Context(), "c1", dir, nil); !errors.Is(err, ErrNoShare) || !strings.Contains(err.Error(), "blockfile") {
		t.Errorf("a root file system: %v", err)
	}
	if err := c.SandboxMount(t.Context(), dir); !errors.Is(err, ErrNoShare) {
		t.Errorf("a sandbox mount: %v", err)
	}
	if n := g.called(); n > 0 {
		t.Errorf("%d calls for what is refused", n)
	}
}

// standing is a guest whose copies stand still, as the looks at a folder do whose server is away.
type standing struct {
	*guest
	still atomic.Bool
	stood chan struct{}
	goOn  chan struct{}
}

func (g *standing) CopyFile(ctx context.Context, r *agentproto.CopyFileRequest) (*agentproto.Empty, error) {
	if g.still.CompareAndSwap(true, false) {
		close(g.stood)
		<-g.goOn
	}
	return g.guest.CopyFile(ctx, r)
}

func TestTheEndDoesNotWaitForEverForAFolderThatStandsStill(t *testing.T) {
	c, g := newCopies(t)
	s := &standing{guest: g, stood: make(chan struct{}), goOn: make(chan struct{})}
	c.guest = func() Guest { return s }
	volume := t.TempDir()
	write(t, volume, 1, map[string]string{"key": "one"})
	bound(t, c, g, volume, true)
	s.still.Store(true)
	write(t, volume, 2, map[string]string{"key": "two"})
	<-s.stood
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := c.Close(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("the end of what stands still: %v", err)
	}
	close(s.goOn)
	must(t, c.Close(t.Context()))
}

func TestOfAFolderThatIsTooLargeNoMoreIsReadThanThereIsRoomFor(t *testing.T) {
	folder := t.TempDir()
	must(t, os.WriteFile(filepath.Join(folder, "0"), nil, 0o600))
	for i := 1; i < 30*MaxEntries; i++ { // a name is enough
		must(t, os.Link(filepath.Join(folder, "0"), filepath.Join(folder, strconv.Itoa(i))))
	}
	root, err := os.OpenRoot(folder)
	must(t, err)
	defer root.Close()
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	_, err = readTree(root)
	runtime.ReadMemStats(&after)
	if !errors.Is(err, ErrNoShare) {
		t.Errorf("%v, want a refusal", err)
	}
	if taken := after.TotalAlloc - before.TotalAlloc; taken > 2<<20 {
		t.Errorf("%d bytes of memory for a folder with %d names too many", taken, 29*MaxEntries)
	}
}
