package share

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/containerd/containerd/api/types"
	"github.com/moby/sys/mountinfo"
)

const virtiofsd = "/usr/lib/qemu/virtiofsd" // Debian's qemu-system-common

// start runs a share of a sandbox of its own and checks at the end of the test that closing it left nothing.
func start(t *testing.T) *Share {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Fatal("mounting needs root")
	}
	root := t.TempDir()
	s, err := Start(t.Context(), config(t, root))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		for range 2 { // a second time must find nothing to do
			if err := s.Close(context.WithoutCancel(t.Context())); err != nil {
				t.Errorf("close: %v", err)
			}
		}
		nothingLeft(t, root)
		if _, err := os.Lstat(s.daemon.socket); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("the socket is left: %v", err)
		}
	})
	return s
}

func config(t *testing.T, root string) Config {
	return Config{
		ID: "s1", Root: root, Socket: filepath.Join(t.TempDir(), "fs.sock"), Daemon: virtiofsd, Cache: "auto",
		Args: []string{"--thread-pool-size=1", "--announce-submounts"}, Log: slog.New(slog.DiscardHandler),
	}
}

func nothingLeft(t *testing.T, root string) {
	t.Helper()
	mounts, err := mountinfo.GetMounts(mountinfo.PrefixFilter(root))
	if err != nil || len(mounts) > 0 {
		t.Errorf("mounts left below %s: %v, %v", root, mounts, err)
	}
	entries, err := os.ReadDir(root)
	if err != nil || len(entries) > 0 {
		t.Errorf("left in %s: %v, %v", root, entries, err)
	}
}

// served is the root folder as virtiofsd sees it, from inside its own mount namespace.
func served(t *testing.T, s *Share) string {
	t.Helper()
	children := fmt.Sprintf("/proc/%d/task/%d/children", s.Daemon().PID, s.Daemon().PID)
	for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		pid, err := os.ReadFile(children)
		if err != nil {
			t.Fatal(err)
		}
		root := "/proc/" + strings.TrimSpace(string(pid)) + "/root"
		// It serves a guest only after it has made the folder its root; until then the host's root shows.
		if _, err := os.Lstat(root + "/etc"); len(pid) > 0 && errors.Is(err, fs.ErrNotExist) {
			if _, err := os.Lstat(root); err == nil {
				return root
			}
		}
	}
	t.Fatal("virtiofsd did not take the folder as its root")
	return ""
}

// connect stands in for the hypervisor: virtiofsd enters its sandbox only when somebody connects.
func connect(t *testing.T, s *Share) string {
	t.Helper()
	fd, err := syscall.Socket(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = syscall.Close(fd) })
	if err := syscall.Connect(fd, &syscall.SockaddrUnix{Name: s.daemon.socket}); err != nil {
		t.Fatal(err)
	}
	return served(t, s)
}

func writeFile(t *testing.T, path, content string) string {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}

// onHost turns a path of the guest into the one virtiofsd serves it from.
func onHost(t *testing.T, root, guestPath string) string {
	t.Helper()
	rest, ok := strings.CutPrefix(guestPath, GuestDir+"/")
	if !ok {
		t.Fatalf("guest path %s is not below %s", guestPath, GuestDir)
	}
	return filepath.Join(root, rest)
}

func TestWhatIsSharedLaterIsSeenByTheRunningDaemon(t *testing.T) {
	s := start(t)
	root := connect(t, s)
	dir := filepath.Dir(writeFile(t, filepath.Join(t.TempDir(), "d", "f"), "folder"))
	file := writeFile(t, filepath.Join(t.TempDir(), "resolv.conf"), "file")

	guestDir, err := s.Bind(t.Context(), "c1", dir, "/data", false)
	if err != nil {
		t.Fatal(err)
	}
	guestFile, err := s.Bind(t.Context(), "c1", file, "/etc/resolv.conf", true)
	if err != nil {
		t.Fatal(err)
	}
	if want := `^/run/kata-containers/shared/containers/c1-[0-9a-f]{16}-resolv\.conf$`; !regexp.MustCompile(want).MatchString(guestFile) {
		t.Errorf("guest path %s, want %s", guestFile, want)
	}
	for path, want := range map[string]string{onHost(t, root, guestDir) + "/f": "folder", onHost(t, root, guestFile): "file"} {
		if got, err := os.ReadFile(path); err != nil || string(got) != want {
			t.Errorf("virtiofsd sees %q, %v in %s; want %q", got, err, path, want)
		}
	}
	if err := os.WriteFile(onHost(t, root, guestDir)+"/new", nil, 0o600); err != nil {
		t.Errorf("a writable folder is not: %v", err)
	}
	if err := os.WriteFile(onHost(t, root, guestFile), nil, 0o600); !errors.Is(err, syscall.EROFS) {
		t.Errorf("writing to a read-only bind from the daemon's side gave %v, want EROFS", err)
	}
	if err := os.WriteFile(root+"/x", nil, 0o600); !errors.Is(err, syscall.EROFS) {
		t.Errorf("writing beside the mounts gave %v, want EROFS", err)
	}

	if err := s.Release(t.Context(), "c1"); err != nil {
		t.Fatal(err)
	}
	if left, err := os.ReadDir(root); err != nil || len(left) != 1 || left[0].Name() != watchable {
		t.Errorf("after release virtiofsd still sees %v, %v", left, err)
	}
	if got, err := os.ReadFile(dir + "/f"); err != nil || string(got) != "folder" {
		t.Errorf("the host's own file is %q, %v after release", got, err)
	}
}

func TestARootFileSystemIsMountedSharedAndTakenAway(t *testing.T) {
	s := start(t)
	root := connect(t, s)
	layers := t.TempDir()
	for name, content := range map[string]string{"lower/bin/tool": "tool", "upper/etc/name": "name"} {
		writeFile(t, filepath.Join(layers, name), content)
	}
	if err := os.Mkdir(layers+"/work", 0o700); err != nil {
		t.Fatal(err)
	}
	bundle := filepath.Join(t.TempDir(), "rootfs")
	guest, err := s.Rootfs(t.Context(), "c1", bundle, []*types.Mount{{Type: "overlay", Source: "overlay", Options: []string{
		"index=off", "lowerdir=" + layers + "/lower", "upperdir=" + layers + "/upper", "workdir=" + layers + "/work"}}})
	if err != nil {
		t.Fatal(err)
	}
	if guest != GuestDir+"/c1/rootfs" {
		t.Errorf("guest path %s", guest)
	}
	for _, name := range []string{"bin/tool", "etc/name"} {
		if _, err := os.Stat(filepath.Join(onHost(t, root, guest), name)); err != nil {
			t.Error(err)
		}
	}
	if err := os.WriteFile(onHost(t, root, guest)+"/written", []byte("x"), 0o600); err != nil {
		t.Error(err)
	}
	// A file that the daemon holds open keeps the mount busy; release must come through all the same.
	held, err := os.Open(onHost(t, root, guest) + "/written")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = held.Close() }()
	if err := s.Release(t.Context(), "c1"); err != nil {
		t.Fatal(err)
	}
	if mounted, err := mountinfo.Mounted(bundle); err != nil || mounted {
		t.Errorf("the bundle's root file system is still mounted: %v, %v", mounted, err)
	}
	if _, err := os.Stat(layers + "/upper/written"); err != nil {
		t.Errorf("what the container wrote is gone: %v", err)
	}
}

func TestWhatBelongsToTheSandboxIsSeenReadOnlyAndTakenAway(t *testing.T) {
	s := start(t)
	root := connect(t, s)
	source := filepath.Dir(writeFile(t, filepath.Join(t.TempDir(), "tools", "file"), "x"))
	if err := s.SandboxMount(t.Context(), source); err != nil {
		t.Fatal(err)
	}
	seen := filepath.Join(root, "sandbox-mounts", "tools", "file")
	if text, err := os.ReadFile(seen); err != nil || string(text) != "x" {
		t.Errorf("the guest reads %q, %v", text, err)
	}
	if err := os.WriteFile(seen, nil, 0o600); err == nil {
		t.Error("the guest can write to it")
	}
	for _, wrong := range []string{source, "/no/such/folder"} { // the same name twice, and nothing at all
		if err := s.SandboxMount(t.Context(), wrong); err == nil || !strings.Contains(err.Error(), wrong) {
			t.Errorf("%s: %v", wrong, err)
		}
	}
}

func TestARootFileSystemThatIsThereAlreadyIsSharedAsItIs(t *testing.T) {
	s := start(t)
	files := filepath.Dir(writeFile(t, filepath.Join(t.TempDir(), "rootfs", "f"), "x"))
	if _, err := s.Rootfs(t.Context(), "c1", files, nil); err != nil {
		t.Fatal(err)
	}
	if err := s.Release(t.Context(), "c1"); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(files + "/f"); err != nil {
		t.Errorf("files that were not mounted by us are gone: %v", err)
	}
}

func TestWhatCannotBeSharedIsRefusedAndLeavesNothing(t *testing.T) {
	s := start(t)
	for _, tc := range []struct {
		name string
		do   func() error
		is   error
	}{
		{"a source that is not there", func() error {
			_, err := s.Bind(t.Context(), "c1", "/no/such/file", "/x", false)
			return err
		}, fs.ErrNotExist},
		{"a device node", func() error {
			_, err := s.Bind(t.Context(), "c1", "/dev/null", "/x", false)
			return err
		}, ErrDevice},
		{"a container id with a slash", func() error {
			_, err := s.Bind(t.Context(), "../c1", "/etc", "/x", false)
			return err
		}, ErrName},
		{"a root file system of an impossible kind", func() error {
			_, err := s.Rootfs(t.Context(), "c1", filepath.Join(t.TempDir(), "rootfs"), []*types.Mount{{Type: "nosuchfs", Source: "x"}})
			return err
		}, syscall.ENODEV},
	} {
		if err := tc.do(); !errors.Is(err, tc.is) {
			t.Errorf("%s: error %v, want %v", tc.name, err, tc.is)
		}
	}
	if err := s.Release(t.Context(), "c1"); err != nil {
		t.Error(err)
	}
	if entries, err := os.ReadDir(s.tree.mounts()); err != nil || len(entries) != 1 || entries[0].Name() != watchable {
		t.Errorf("left %v, %v", entries, err)
	}
}

func TestTheDeathOfTheDaemonIsTold(t *testing.T) {
	s := start(t)
	if err := s.Err(); err != nil {
		t.Errorf("error %v while it runs", err)
	}
	if err := syscall.Kill(s.Daemon().PID, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	select {
	case <-s.Done():
	case <-time.After(10 * time.Second):
		t.Fatal("nothing was told")
	}
	if err := s.Err(); err == nil || !strings.Contains(err.Error(), "killed") {
		t.Errorf("error %v, want one that says it was killed", err)
	}
}

func TestADaemonThatDoesNotStartLeavesNothing(t *testing.T) {
	for _, tc := range []struct {
		name   string
		change func(*Config)
		says   string
	}{
		{"no such program", func(c *Config) { c.Daemon = "/no/such/virtiofsd" }, "virtio_fs_daemon"},
		{"a program that fails", func(c *Config) { c.Daemon = "/bin/false" }, "virtio_fs_daemon"},
		{"a cache mode it does not have", func(c *Config) { c.Cache = "metadata" }, "virtio_fs_cache"},
		{"no place for the socket", func(c *Config) { c.Socket = "/no/such/folder/s" }, "listen"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			root := t.TempDir()
			c := config(t, root)
			tc.change(&c)
			if _, err := Start(t.Context(), c); err == nil || !strings.Contains(err.Error(), tc.says) {
				t.Errorf("error %v, want one that says %q", err, tc.says)
			}
			nothingLeft(t, root)
		})
	}
}

func TestAFreshProcessCleansUpWhatADeadShimLeft(t *testing.T) {
	root, c := t.TempDir(), Config{}
	c = config(t, root)
	s, err := Start(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	connect(t, s)
	lower := filepath.Dir(writeFile(t, filepath.Join(t.TempDir(), "l", "f"), "x"))
	bundle := filepath.Join(t.TempDir(), "rootfs")
	if _, err := s.Rootfs(t.Context(), "c1", bundle, []*types.Mount{{Type: "bind", Source: lower, Options: []string{"rbind", "rw"}}}); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Bind(t.Context(), "c1", lower, "/d", false); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := Cleanup(t.Context(), root, "s1", s.Daemon(), []string{bundle}); err != nil {
			t.Fatal(err)
		}
	}
	nothingLeft(t, root)
	if mounted, err := mountinfo.Mounted(bundle); err != nil || mounted {
		t.Errorf("root file system still mounted: %v, %v", mounted, err)
	}
	if _, err := os.Stat(lower + "/f"); err != nil {
		t.Errorf("the shared files themselves are gone: %v", err)
	}
	select {
	case <-s.Done():
	case <-time.After(10 * time.Second): // it is known to have ended before its last words have been read
		t.Error("virtiofsd still runs")
	}
}
