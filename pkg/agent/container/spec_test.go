package container

import (
	"errors"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

func hostSpec() *specs.Spec {
	return &specs.Spec{
		Hostname: "pod",
		Process:  &specs.Process{Args: []string{"true"}, ApparmorProfile: "a", SelinuxLabel: "s"},
		Root:     &specs.Root{Path: "/rootfs"},
		Hooks:    &specs.Hooks{Poststop: []specs.Hook{{Path: "/bin/sh"}}},
		Annotations: map[string]string{
			"run.oci.hooks.stdout": "/etc/passwd",
		},
		Linux: &specs.Linux{CgroupsPath: "/kubepods/x", MountLabel: "l", IntelRdt: &specs.LinuxIntelRdt{}},
	}
}

func TestNamespacesBecomeTheGuests(t *testing.T) {
	asked := []specs.LinuxNamespace{
		{Type: "pid", Path: "/proc/1/ns/pid"}, {Type: "ipc", Path: "/proc/9/ns/ipc"}, {Type: "uts"}, {Type: "mount"},
		{Type: "network", Path: "/var/run/netns/x"}, {Type: "cgroup"}, {Type: "user", Path: "/proc/9/ns/user"}, {Type: "time"},
	}
	for _, tc := range []struct {
		name   string
		asked  []specs.LinuxNamespace
		around Surroundings
		want   []specs.LinuxNamespace
	}{
		{"all of the host's", asked, Surroundings{IPC: "/ipc", UTS: "/uts"}, []specs.LinuxNamespace{
			{Type: "mount"}, {Type: "cgroup"}, {Type: "pid"}, {Type: "ipc", Path: "/ipc"}, {Type: "uts", Path: "/uts"}, {Type: "user"},
		}},
		{"the pod's processes", asked[:1], Surroundings{IPC: "/ipc", UTS: "/uts", PID: "/pid"}, []specs.LinuxNamespace{
			{Type: "mount"}, {Type: "cgroup"}, {Type: "pid", Path: "/pid"}, {Type: "ipc", Path: "/ipc"}, {Type: "uts", Path: "/uts"},
		}},
		{"the host's: none", nil, Surroundings{IPC: "/ipc", UTS: "/uts"}, []specs.LinuxNamespace{
			{Type: "mount"}, {Type: "cgroup"}, {Type: "pid"}, {Type: "ipc", Path: "/ipc"}, {Type: "uts", Path: "/uts"},
		}},
	} {
		s := hostSpec()
		s.Linux.Namespaces = tc.asked
		if err := adapt(s, "c1", "/k", tc.around); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(tc.want, s.Linux.Namespaces); diff != "" || s.Hostname != "pod" {
			t.Errorf("%s: hostname %q, namespaces (-want +got):\n%s", tc.name, s.Hostname, diff)
		}
	}
}

func TestWhatSpeaksOfTheHostIsLeftOut(t *testing.T) {
	s := hostSpec()
	if err := adapt(s, "c1", "/k", Surroundings{}); err != nil {
		t.Fatal(err)
	}
	if s.Hooks != nil || s.Annotations != nil || s.Process.ApparmorProfile+s.Process.SelinuxLabel+s.Linux.MountLabel != "" || s.Linux.IntelRdt != nil {
		t.Errorf("%+v", s)
	}
	if s.Linux.CgroupsPath != "/k/c1" {
		t.Errorf("cgroup %s", s.Linux.CgroupsPath)
	}
}

func TestPropagationIsAtLeastReceiving(t *testing.T) {
	for asked, want := range map[string]string{
		"": "rslave", "private": "rslave", "rprivate": "rslave", "slave": "rslave", "rshared": "rshared", "shared": "shared",
	} {
		s := hostSpec()
		s.Linux.RootfsPropagation = asked
		if err := adapt(s, "c1", "/k", Surroundings{}); err != nil || s.Linux.RootfsPropagation != want {
			t.Errorf("%q became %q, %v; want %q", asked, s.Linux.RootfsPropagation, err, want)
		}
	}
}

func TestSettingsOfCgroup1AreLeftOut(t *testing.T) {
	number, flag := int64(1), true
	got := cgroup2Resources(&specs.LinuxResources{
		Memory:  &specs.LinuxMemory{Limit: &number, KernelTCP: &number, DisableOOMKiller: &flag},
		CPU:     &specs.LinuxCPU{Quota: &number, RealtimeRuntime: &number, Cpus: "0"},
		Network: &specs.LinuxNetwork{},
	})
	want := &specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: &number}, CPU: &specs.LinuxCPU{Quota: &number, Cpus: "0"}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

func TestSpecificationsThatCannotRunAreRefused(t *testing.T) {
	for name, change := range map[string]func(*specs.Spec){
		"no process":       func(s *specs.Spec) { s.Process = nil },
		"no command":       func(s *specs.Spec) { s.Process.Args = nil },
		"no root":          func(s *specs.Spec) { s.Root = nil },
		"a relative root":  func(s *specs.Spec) { s.Root.Path = "rootfs" },
		"another system's": func(s *specs.Spec) { s.Linux = nil },
	} {
		s := hostSpec()
		change(s)
		if err := adapt(s, "c1", "/k", Surroundings{}); !errors.Is(err, ErrSpec) {
			t.Errorf("%s: %v, want ErrSpec", name, err)
		}
	}
}

func TestIDs(t *testing.T) {
	for _, id := range []string{"a1", "0123456789abcdef", "a.b-c_d", strings.Repeat("x", 128)} {
		if err := CheckID(id); err != nil {
			t.Errorf("%q: %v", id, err)
		}
	}
	for _, id := range []string{"", "a", ".", "..", "-a", "a/b", "a b", "a\n", "ä1", strings.Repeat("x", 129)} {
		if err := CheckID(id); !errors.Is(err, ErrID) {
			t.Errorf("%q: %v, want ErrID", id, err)
		}
	}
}

func TestNetworkSysctlsAreTakenOut(t *testing.T) {
	linux := &specs.Linux{Sysctl: map[string]string{"net.ipv4.ip_forward": "1", "net/core/somaxconn": "2", "kernel.shmmax": "3", "netx.y": "4"}}
	taken := networkSysctls(linux)
	if diff := cmp.Diff(map[string]string{"net.ipv4.ip_forward": "1", "net/core/somaxconn": "2"}, taken); diff != "" {
		t.Errorf("taken (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(map[string]string{"kernel.shmmax": "3", "netx.y": "4"}, linux.Sysctl); diff != "" {
		t.Errorf("kept (-want +got):\n%s", diff)
	}
}

func TestSysctlNames(t *testing.T) {
	for name, want := range map[string]string{
		"net.ipv4.ip_forward":     "net/ipv4/ip_forward",
		"net/ipv4/ip_forward":     "net/ipv4/ip_forward",
		"net.ipv4.conf.eth0/1.rp": "net/ipv4/conf/eth0.1/rp",
		"net/ipv4/conf/eth0.1/rp": "net/ipv4/conf/eth0.1/rp",
		"plain":                   "plain",
	} {
		if got := sysctlPath(name); got != want {
			t.Errorf("%q: %q, want %q", name, got, want)
		}
	}
	if err := applySysctls(map[string]string{"net.../../../tmp/escaped": "1"}); !errors.Is(err, ErrSpec) {
		t.Errorf("%v, want ErrSpec", err)
	}
	if _, err := os.Stat("/tmp/escaped"); err == nil {
		t.Error("a sysctl's name led out of /proc/sys")
	}
}

func TestSignalsThatAProcessHandles(t *testing.T) {
	// This process: Go catches SIGTERM only when asked, and always SIGSEGV.
	if !handles(os.Getpid(), unix.SIGSEGV) {
		t.Error("SIGSEGV is not handled")
	}
	if handles(os.Getpid(), unix.SIGSTOP) {
		t.Error("SIGSTOP is handled")
	}
	if handles(1<<30, unix.SIGSEGV) {
		t.Error("a process that is not there handles a signal")
	}
}
