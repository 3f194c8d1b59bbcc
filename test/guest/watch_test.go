package guest_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"google.golang.org/grpc/codes"

	"github.com/katadirect/katadirect/pkg/agentproto"
	"github.com/katadirect/katadirect/pkg/runtime/qemu"
)

// As Kata's shim has it: the mount point lies on the share, where the guest can make nothing.
func TestAWatchedFolderFollowsTheHost(t *testing.T) {
	m, shared := newSharingMachine(t, qemu.Config{})
	do := func(errs ...error) {
		t.Helper()
		if err := errors.Join(errs...); err != nil {
			t.Fatal(err)
		}
	}
	bind := func(source, destination string) string {
		t.Helper()
		path, err := shared.Bind(t.Context(), "c", source, destination, false)
		do(err)
		return path
	}
	rootfs := bind(newRootfs(t, t.TempDir()), "/")
	settings, large, file := t.TempDir(), t.TempDir(), filepath.Join(t.TempDir(), "file")
	do(os.WriteFile(settings+"/a", []byte("one"), 0o640), os.Chown(settings+"/a", 0, 3000), os.Symlink("a", settings+"/link"),
		os.WriteFile(large+"/big", make([]byte, 5<<20), 0o600), os.WriteFile(file, []byte("x"), 0o600))
	s := spec("exec sleep 1000000")
	s.Root.Path = rootfs
	var storages []*agentproto.Storage
	for destination, source := range map[string]string{"/settings": settings, "/large": large, "/file": file} {
		path := bind(source, destination)
		st := &agentproto.Storage{Driver: "watchable-bind", Fstype: "bind", Source: path, Options: []string{"bind"},
			MountPoint: filepath.Join(sharedDir, "watchable", filepath.Base(path))}
		storages = append(storages, st)
		s.Mounts = append(s.Mounts, specs.Mount{Destination: destination, Type: "bind", Source: st.MountPoint, Options: []string{"bind", "ro"}})
	}
	c := m.create(t, s, storages...).start()
	if got := c.must("busybox cat /settings/link; busybox stat -c ' %a %g' /settings/a; busybox grep ' /settings ' /proc/mounts | busybox cut -d' ' -f3; " +
		"busybox stat -c %s /large/big; busybox cat /file"); got != "one 640 3000\ntmpfs\n5242880\nx" {
		t.Errorf("at first %q", got)
	}
	do(os.WriteFile(settings+"/b", []byte("two"), 0o600), os.Rename(settings+"/b", settings+"/a"), os.WriteFile(file, []byte("y"), 0o600))
	for began := time.Now(); ; time.Sleep(100 * time.Millisecond) {
		got := c.must("busybox cat /settings/link /file")
		if got == "twoy" {
			t.Logf("it took %s", time.Since(began))
			break
		}
		if time.Since(began) > patience {
			t.Fatalf("still %q", got)
		}
	}
	// A second container has the same copy; the last one takes it away.
	second := m.create(t, s, storages...).start()
	do(c.remove())
	if got := second.must("busybox cat /settings/link"); got != "two" {
		t.Errorf("the second container reads %q", got)
	}
	do(second.remove())
	third := m.create(t, s, storages...).start()
	third.must("busybox cat /settings/link")
	do(third.remove())
}

func TestHugePages(t *testing.T) {
	m := newMachine(t, qemu.Config{MemoryMiB: 512})
	if err := m.createSandbox(t.Context()); err != nil {
		t.Fatal(err)
	}
	huge := func(name, size string) *agentproto.Storage {
		return &agentproto.Storage{Driver: "ephemeral", Source: "nodev", Fstype: "hugetlbfs",
			MountPoint: "/run/kata-containers/sandbox/ephemeral/" + name, Options: []string{"mode=0770", "fsgid=3000", "pagesize=2097152", "size=" + size}}
	}
	st := huge("h1", "8388608")
	s := spec("exec sleep 1000000")
	s.Mounts = append(s.Mounts, specs.Mount{Destination: "/huge", Type: "bind", Source: st.MountPoint, Options: []string{"rbind", "rw"}})
	s.Linux.Resources.HugepageLimits = []specs.LinuxHugepageLimit{{Pagesize: "2MB", Limit: 8 << 20}}
	c := m.create(t, s, st).start()
	got := c.must("grep HugePages_Total /proc/meminfo | busybox awk '{print $2}'; cat /sys/fs/cgroup/hugetlb.2MB.max; stat -c '%a %g' /huge; grep ' /huge ' /proc/mounts | cut -d' ' -f3")
	if got != "4\n8388608\n2770 3000\nhugetlbfs" {
		t.Errorf("got %q", got)
	}
	wantCode(t, m.tryCreate(t.Context(), newID("c"), s, huge("h2", "1073741824")), codes.ResourceExhausted, "default_memory")
	wantCode(t, m.tryCreate(t.Context(), newID("c"), s, huge("h3", "x")), codes.InvalidArgument, "size=x")
	if got := c.must("grep HugePages_Total /proc/meminfo | busybox awk '{print $2}'"); !strings.HasPrefix(got, "4") {
		t.Errorf("pages after a reservation that failed: %s", got)
	}
}
