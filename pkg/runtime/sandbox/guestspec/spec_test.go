package guestspec

import (
	"errors"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
)

func ptr[T any](v T) *T { return &v }

// full is a spec in which everything is set that a step looks at.
func full() *specs.Spec {
	return &specs.Spec{
		Version:  "1.1.0",
		Hostname: "pod",
		Root:     &specs.Root{Path: "rootfs", Readonly: true},
		Process: &specs.Process{Args: []string{"sh"}, Cwd: "/", ApparmorProfile: "cri-containerd.apparmor.d",
			SelinuxLabel: "system_u:x", NoNewPrivileges: true, OOMScoreAdj: ptr(-997)},
		Mounts:      []specs.Mount{{Destination: "/data", Type: "bind", Source: "/host"}},
		Hooks:       &specs.Hooks{CreateRuntime: []specs.Hook{{Path: "/hook"}}},
		Annotations: map[string]string{"io.kubernetes.cri.container-type": "container"},
		Linux: &specs.Linux{
			Namespaces: []specs.LinuxNamespace{
				{Type: specs.PIDNamespace, Path: "/proc/1/ns/pid"}, {Type: specs.IPCNamespace, Path: "/proc/1/ns/ipc"},
				{Type: specs.UTSNamespace, Path: "/proc/1/ns/uts"}, {Type: specs.MountNamespace},
				{Type: specs.NetworkNamespace, Path: "/var/run/netns/x"}, {Type: specs.CgroupNamespace},
				{Type: specs.TimeNamespace},
			},
			CgroupsPath: "kubepods-besteffort.slice:cri-containerd:abc",
			Resources: &specs.LinuxResources{
				Devices: []specs.LinuxDeviceCgroup{{Allow: false, Access: "rwm"}},
				Memory:  &specs.LinuxMemory{Limit: ptr(int64(1 << 28))},
				CPU:     &specs.LinuxCPU{Shares: ptr(uint64(2)), Cpus: "0-3", Mems: "0"},
				Pids:    &specs.LinuxPids{Limit: ptr(int64(10))},
				BlockIO: &specs.LinuxBlockIO{Weight: ptr(uint16(10))},
				Network: &specs.LinuxNetwork{ClassID: ptr(uint32(1))},
			},
			Devices:     []specs.LinuxDevice{{Path: "/dev/fuse", Type: "c", Major: 10, Minor: 229}},
			Seccomp:     &specs.LinuxSeccomp{DefaultAction: specs.ActErrno},
			MountLabel:  "label",
			IntelRdt:    &specs.LinuxIntelRdt{ClosID: "x"},
			MaskedPaths: []string{"/proc/kcore"},
			Sysctl:      map[string]string{"kernel.shm_rmid_forced": "1"},
		},
	}
}

func TestWhatTheGuestGets(t *testing.T) {
	g := Guest{ContainerID: "c1", Bundle: "/bundle", Rootfs: "/guest/c1/rootfs", Seccomp: true,
		Mounts: []specs.Mount{{Destination: "/data", Type: "bind", Source: "/guest/x"}}}
	for _, tc := range []struct {
		name   string
		change func(*specs.Spec, *Guest)
		got    func(*specs.Spec) any
		want   any
	}{
		{"the root file system by its guest path, read-only as asked", nil,
			func(s *specs.Spec) any { return *s.Root }, specs.Root{Path: "/guest/c1/rootfs", Readonly: true}},
		{"the guest's mounts", nil, func(s *specs.Spec) any { return s.Mounts }, g.Mounts},
		{"no hooks of the host", nil, func(s *specs.Spec) any { return s.Hooks == nil }, true},
		{"no profile or label of the host's security modules", nil,
			func(s *specs.Spec) any {
				return s.Process.ApparmorProfile + s.Process.SelinuxLabel + s.Linux.MountLabel
			}, ""},
		{"the process otherwise as it was", nil,
			func(s *specs.Spec) any {
				return []any{s.Process.Args, s.Process.NoNewPrivileges, *s.Process.OOMScoreAdj}
			},
			[]any{[]string{"sh"}, true, -997}},
		{"namespaces that the machine does not stand for, without paths of the host", nil,
			func(s *specs.Spec) any { return s.Linux.Namespaces },
			[]specs.LinuxNamespace{{Type: specs.IPCNamespace}, {Type: specs.UTSNamespace}, {Type: specs.MountNamespace}}},
		{"a cgroup of its own", nil, func(s *specs.Spec) any { return s.Linux.CgroupsPath }, "/c1"},
		{"limits that do not depend on the host's hardware", nil,
			func(s *specs.Spec) any { return *s.Linux.Resources },
			specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: ptr(int64(1 << 28))}, CPU: &specs.LinuxCPU{Shares: ptr(uint64(2))},
				Pids: &specs.LinuxPids{Limit: ptr(int64(10))}}},
		{"seccomp where the guest can", nil, func(s *specs.Spec) any { return s.Linux.Seccomp != nil }, true},
		{"no seccomp where it cannot", func(_ *specs.Spec, g *Guest) { g.Seccomp = false },
			func(s *specs.Spec) any { return s.Linux.Seccomp != nil }, false},
		{"no cache allocation", nil, func(s *specs.Spec) any { return s.Linux.IntelRdt == nil }, true},
		{"everything else", nil,
			func(s *specs.Spec) any {
				return []any{s.Version, s.Hostname, s.Linux.MaskedPaths, s.Linux.Sysctl, len(s.Linux.Devices)}
			},
			[]any{"1.1.0", "pod", []string{"/proc/kcore"}, map[string]string{"kernel.shm_rmid_forced": "1"}, 1}},
		{"Kata's annotations for a container of a pod", nil,
			func(s *specs.Spec) any {
				return []string{s.Annotations[annotationType], s.Annotations[annotationBundle]}
			},
			[]string{"pod_container", "/bundle"}},
		{"for the pause container", func(s *specs.Spec, _ *Guest) { s.Annotations["io.kubernetes.cri.container-type"] = "sandbox" },
			func(s *specs.Spec) any { return s.Annotations[annotationType] }, "pod_sandbox"},
		{"for a container without a pod", func(s *specs.Spec, _ *Guest) { s.Annotations = nil },
			func(s *specs.Spec) any { return s.Annotations[annotationType] }, "single_container"},
		{"a spec without a Linux part", func(s *specs.Spec, _ *Guest) { s.Linux = nil },
			func(s *specs.Spec) any { return s.Linux.CgroupsPath }, "/c1"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			in, g := full(), g
			if tc.change != nil {
				tc.change(in, &g)
			}
			out, _, err := For(in, g)
			if err != nil {
				t.Fatal(err)
			}
			if got := tc.got(out); !reflect.DeepEqual(got, tc.want) {
				t.Errorf("got  %+v\nwant %+v", got, tc.want)
			}
		})
	}
}

func TestTheHostsSpecIsNotChanged(t *testing.T) {
	in := full()
	if _, _, err := For(in, Guest{ContainerID: "c1"}); err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(in, full()) {
		t.Errorf("it is now %+v", in)
	}
}

func TestAPIDNamespaceWithAPathIsThePods(t *testing.T) {
	for _, tc := range []struct {
		name       string
		namespaces []specs.LinuxNamespace
		want       bool
	}{
		{"the pod's", []specs.LinuxNamespace{{Type: specs.PIDNamespace, Path: "/proc/1/ns/pid"}}, true},
		{"its own", []specs.LinuxNamespace{{Type: specs.PIDNamespace}}, false},
		{"the machine's", nil, false},
	} {
		in := full()
		in.Linux.Namespaces = tc.namespaces
		if _, got, err := For(in, Guest{ContainerID: "c1"}); err != nil || got != tc.want {
			t.Errorf("%s: %v, %v; want %v", tc.name, got, err, tc.want)
		}
	}
}

func TestABlockDeviceOfTheHostIsRefused(t *testing.T) {
	in := full()
	in.Linux.Devices = append(in.Linux.Devices, specs.LinuxDevice{Path: "/dev/sda", Type: "b", Major: 8})
	if _, _, err := For(in, Guest{ContainerID: "c1"}); !errors.Is(err, ErrUnsupported) || !strings.Contains(err.Error(), "/dev/sda") {
		t.Errorf("error %v", err)
	}
}

func TestASpecWithoutAProcessIsRefused(t *testing.T) {
	for _, in := range []*specs.Spec{nil, {}} {
		if _, _, err := For(in, Guest{ContainerID: "c1"}); err == nil {
			t.Error("no error")
		}
	}
}

func TestKindOfAMount(t *testing.T) {
	bind := func(source, destination string) specs.Mount {
		return specs.Mount{Type: "bind", Source: source, Destination: destination, Options: []string{"rbind", "rw"}}
	}
	for _, tc := range []struct {
		name string
		in   specs.Mount
		want Kind
		err  error
	}{
		{"proc", specs.Mount{Type: "proc", Source: "proc", Destination: "/proc"}, GuestOwn, nil},
		{"cgroup", specs.Mount{Type: "cgroup", Source: "cgroup", Destination: "/sys/fs/cgroup"}, GuestOwn, nil},
		{"tmpfs", specs.Mount{Type: "tmpfs", Source: "tmpfs", Destination: "/tmp"}, GuestOwn, nil},
		{"mqueue", specs.Mount{Type: "mqueue", Source: "mqueue", Destination: "/dev/mqueue"}, GuestOwn, nil},
		{"a disk of the host by its name", specs.Mount{Type: "ext4", Source: "/dev/sda", Destination: "/x"}, 0, ErrUnsupported},
		{"an overlay of folders of the host", specs.Mount{Type: "overlay", Destination: "/x"}, 0, ErrUnsupported},
		{"the pod's shared memory", bind("/run/containerd/io.containerd.grpc.v1.cri/sandboxes/x/shm", "/dev/shm"), PodMemory, nil},
		{"a volume at /dev/shm", bind("/var/lib/kubelet/pods/x/volumes/kubernetes.io~empty-dir/m", "/dev/shm"), HostBind, nil},
		{"resolv.conf", bind("/var/lib/containerd/x/resolv.conf", "/etc/resolv.conf"), HostBind, nil},
		{"termination log", bind("/var/lib/kubelet/pods/x/containers/c/1", "/dev/termination-log"), HostBind, nil},
		{"a bind by its options", specs.Mount{Type: "none", Source: "/h", Destination: "/x", Options: []string{"bind"}}, HostBind, nil},
		{"the guest's own /sys", bind("/sys/fs/bpf", "/sys/fs/bpf"), GuestOwn, nil},
		{"a file of the host over one of /proc", bind("/var/lib/lxcfs/meminfo", "/proc/meminfo"), HostBind, nil},
		{"a device every Linux has", bind("/dev/null", "/etc/masked"), GuestOwn, nil},
		{"all devices of the host", bind("/dev/", "/host-dev"), 0, ErrUnsupported},
		{"a terminal of the host", bind("/dev/pts/0", "/dev/console"), 0, ErrUnsupported},
		{"a path that only begins like /proc", bind("/process", "/x"), HostBind, nil},
	} {
		if got, err := KindOf(tc.in); got != tc.want || !errors.Is(err, tc.err) {
			t.Errorf("%s: %v, %v; want %v, %v", tc.name, got, err, tc.want, tc.err)
		}
	}
	if _, err := KindOf(specs.Mount{Type: "bind", Destination: "/x"}); err == nil {
		t.Error("a bind without a source is taken")
	}
}

func TestMountsAreRewritten(t *testing.T) {
	in := specs.Mount{Type: "none", Source: "/host", Destination: "/d", Options: []string{"ro", "rprivate"}}
	got := FromGuest(in, "/guest")
	want := specs.Mount{Type: "bind", Source: "/guest", Destination: "/d", Options: []string{"ro", "rprivate", "rbind"}}
	if !reflect.DeepEqual(got, want) || !slices.Equal(in.Options, []string{"ro", "rprivate"}) {
		t.Errorf("got %+v, the original is %+v", got, in)
	}
	in.Options = []string{"bind", "ro"}
	if got := FromGuest(in, "/guest"); !slices.Equal(got.Options, in.Options) {
		t.Errorf("options %q", got.Options)
	}
	if got := SharedMemory(in); got.Source != ShmDir || got.Destination != "/d" || !slices.Equal(got.Options, []string{"rbind"}) {
		t.Errorf("shared memory %+v", got)
	}
}

func TestReadOnlyIsWhatTheLastOptionSays(t *testing.T) {
	for options, want := range map[string]bool{"": false, "ro": true, "rbind ro": true, "ro rw": false, "rw ro": true} {
		if got := ReadOnly(specs.Mount{Options: strings.Fields(options)}); got != want {
			t.Errorf("%q: %v", options, got)
		}
	}
}
