package guest_test

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"

	"github.com/katadirect/katadirect/pkg/agentproto"
	"github.com/katadirect/katadirect/pkg/runtime/qemu"
	"github.com/katadirect/katadirect/pkg/runtime/share"
)

// machineWithShare boots a machine with a file share, and makes a sandbox in it.
func machineWithShare(t *testing.T) (m *machine, shared *share.Share, dir string) {
	t.Helper()
	dir = t.TempDir()
	socket := filepath.Join(dir, "fs.sock")
	shared, err := share.Start(t.Context(), share.Config{
		ID: "guest-test", Root: filepath.Join(dir, "share"), Socket: socket,
		Daemon: "/usr/lib/qemu/virtiofsd", Cache: "auto", Log: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := shared.Close(context.Background()); err != nil {
			t.Error(err)
		}
	})
	m = newMachine(t, qemu.Config{ShareSocket: socket})
	_, err = m.agent.CreateSandbox(t.Context(), &agentproto.CreateSandboxRequest{
		Hostname: "pod", SandboxId: "sandbox0",
		Storages: []*agentproto.Storage{{Driver: "virtio-fs", Source: "kataShared", Fstype: "virtiofs", MountPoint: sharedDir}},
	})
	if err != nil {
		t.Fatal(err)
	}
	return m, shared, dir
}

func TestFilesOnTheShare(t *testing.T) {
	m, shared, dir := machineWithShare(t)
	rootfs := newRootfs(t, dir)
	t.Run("root file system", func(t *testing.T) { tryRootfsOnTheShare(t, m, shared, rootfs) })
	t.Run("folders are held until the container is gone", func(t *testing.T) { tryPins(t, m, shared, rootfs) })
	// The guest lets go of the share, so that the host can unmount.
	if _, err := m.agent.RemoveStaleVirtiofsShareMounts(t.Context(), &agentproto.RemoveStaleVirtiofsShareMountsRequest{}); err != nil {
		t.Fatal(err)
	}
	for _, container := range []string{"c", "pinned"} {
		if err := shared.Release(t.Context(), container); err != nil {
			t.Error(err)
		}
	}
}

func tryRootfsOnTheShare(t *testing.T, m *machine, shared *share.Share, rootfs string) {
	guestRootfs, err := shared.Bind(t.Context(), "c", rootfs, "/", false)
	if err != nil {
		t.Fatal(err)
	}
	s := spec("exec sleep 1000000")
	s.Root.Path = guestRootfs
	c := m.create(t, s).start()
	c.must("echo from-the-guest > /file")
	if data, err := os.ReadFile(filepath.Join(rootfs, "file")); err != nil || string(data) != "from-the-guest\n" {
		t.Errorf("on the host: %q, %v", data, err)
	}
	if line := c.must("grep ' / ' /proc/mounts"); !strings.Contains(line, "virtiofs") {
		t.Errorf("the root is %q", line)
	}
	// A volume whose mount point lies on the share, as runtime-rs has it.
	d := m.plug(t, newImage(t, 64*mib), false)
	st := d.storage("ext4", ifBlank...)
	st.MountPoint = filepath.Join(guestRootfs, "data")
	second := &containerIn{t, m, newID("c")}
	s.Process.Args = []string{"/bin/sh", "-c", "grep -c ext4 /proc/mounts"}
	if err := m.tryCreate(t.Context(), second.id, s, st); err != nil {
		t.Fatal(err)
	}
	second.start()
	second.finish(second.id)
	if err := second.remove(); err != nil {
		t.Error(err)
	}
	if err := c.remove(); err != nil {
		t.Error(err)
	}
}

// pathFlags are O_PATH|O_DIRECTORY|O_CLOEXEC, as the kernel writes them.
const pathFlags = "012200000"

// tryPins looks at what the agent has open, with the eyes of a container that may. The folders of another one, which has
// ended by itself, must be among that until it is removed: the guest's kernel stumbles over the end of a shared file
// system on whose files the host is still answering.
func tryPins(t *testing.T, m *machine, shared *share.Share, rootfs string) {
	bind := func(source, destination string) string {
		t.Helper()
		path, err := shared.Bind(t.Context(), "pinned", source, destination, false)
		if err != nil {
			t.Fatal(err)
		}
		return path
	}
	guestRootfs, folder := bind(rootfs, "/"), bind(t.TempDir(), "/data")
	s := spec("exec sleep 1000000")
	s.Root.Path = guestRootfs
	for _, set := range []*[]string{
		&s.Process.Capabilities.Bounding, &s.Process.Capabilities.Effective, &s.Process.Capabilities.Permitted,
	} {
		*set = append(slices.Clone(*set), "CAP_SYS_PTRACE")
	}
	s.Mounts = append(s.Mounts, mountAt("/guest-proc", "/proc"))
	observer := m.create(t, s).start()
	// Folders that the observer cannot reach have no names for it; by their flags they are told.
	held := func() int {
		t.Helper()
		look := *s.Process
		look.Args = []string{"/bin/sh", "-c", "busybox grep -h flags: /guest-proc/1/fdinfo/*"}
		id := newID("look")
		observer.exec(id, &look)
		out, status := observer.finish(id)
		if status != 0 {
			t.Fatalf("%d: %s", status, out)
		}
		return strings.Count(out, pathFlags+"\n")
	}
	before := held()
	user := spec("echo written >/data/file")
	user.Root.Path = guestRootfs
	user.Mounts = append(user.Mounts, mountAt("/data", folder))
	c := m.create(t, user).start()
	if out, status := c.finish(c.id); status != 0 {
		t.Fatalf("%d: %s", status, out)
	}
	if n := held(); n != before+2 {
		t.Errorf("of a container that has ended, and is not removed, the agent holds %d folders, want 2", n-before)
	}
	if err := c.remove(); err != nil {
		t.Fatal(err)
	}
	if n := held(); n != before {
		t.Errorf("of a container that is removed the agent holds %d folders still", n-before)
	}
	if err := observer.remove(); err != nil {
		t.Error(err)
	}
}

// newRootfs makes a root file system on the host.
func newRootfs(t *testing.T, dir string) string {
	t.Helper()
	rootfs := filepath.Join(dir, "rootfs")
	for _, sub := range []string{"proc", "sys", "dev", "tmp", "bin"} {
		if err := os.MkdirAll(filepath.Join(rootfs, sub), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	onHost(t, "cp", "/bin/busybox", filepath.Join(rootfs, "bin/busybox"))
	for _, name := range []string{"sh", "sleep", "echo", "grep"} {
		if err := os.Symlink("busybox", filepath.Join(rootfs, "bin", name)); err != nil {
			t.Fatal(err)
		}
	}
	return rootfs
}

func TestFileSystemThatIsDueIsCheckedBeforeItIsMounted(t *testing.T) {
	m := theMachine(t)
	image := newImage(t, 64*mib)
	onHost(t, "mkfs.ext4", "-q", image)
	onHost(t, "debugfs", "-w", "-R", "ssv free_blocks_count 17", image)
	onHost(t, "debugfs", "-w", "-R", "ssv state 0", image)
	d := m.plug(t, image, false)
	c := m.running(t, d.storage("ext4", ifBlank...))
	if err := c.remove(); err != nil {
		t.Fatal(err)
	}
	d.unplug()
	checkClean(t, "ext4", image)

	onHost(t, "debugfs", "-w", "-R", "clri <2>", image) // the root folder
	onHost(t, "debugfs", "-w", "-R", "ssv state 2", image)
	d = m.plug(t, image, false)
	err := m.tryCreate(t.Context(), newID("c"), spec("true"), d.storage("ext4", ifBlank...))
	wantCode(t, err, codes.DataLoss, "damaged", "run e2fsck")
}

// Something that no shim knows of still uses the volume. The device must not be
// reported free.
func TestVolumeThatIsStillInUseIsNotReleased(t *testing.T) {
	// The time-out is to expire in the first removal, and neither at the plug nor in the second one.
	m := newMachine(t, qemu.Config{KernelParams: []string{"agent.hotplug_timeout=5"}})
	if err := m.createSandbox(t.Context()); err != nil {
		t.Fatal(err)
	}
	d := m.plug(t, newImage(t, 64*mib), false)
	st := d.storage("ext4", ifBlank...)
	owner := m.running(t, st)
	s := spec("exec sleep 1000000")
	s.Mounts = append(s.Mounts, mountAt("/data", st.MountPoint))
	other := m.create(t, s).start() // without a storage of its own
	wantCode(t, owner.remove(), codes.Aborted, "in use")
	if err := other.remove(); err != nil {
		t.Fatal(err)
	}
	if err := owner.remove(); err != nil {
		t.Errorf("the second try: %v", err)
	}
	d.unplug()
	checkClean(t, "ext4", d.image)
}
