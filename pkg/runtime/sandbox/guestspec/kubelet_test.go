package guestspec

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/katadirect/katadirect/pkg/agentproto"
)

func TestKubeletsVolumesAreKnownByTheirPath(t *testing.T) {
	const pod = "/var/lib/kubelet/pods/0e3c/"
	for source, want := range map[string]string{
		pod + "volumes/kubernetes.io~empty-dir/cache":         EmptyDir,
		pod + "volumes/kubernetes.io~configmap/settings/":     ConfigMap,
		pod + "volumes/kubernetes.io~projected/kube-api-x":    Projected,
		pod + "volumes/kubernetes.io~csi/pvc-1/mount":         "",
		pod + "volumes/kubernetes.io~empty-dir/cache/below":   "",
		pod + "volume-subpaths/settings/app/0":                "",
		pod + "etc-hosts":                                     "",
		"/":                                                   "",
		"kubernetes.io~secret/x":                              Secret,
		"/srv/kubernetes.io~secret/../kubernetes.io~secret/x": Secret,
	} {
		if got := VolumePlugin(source); got != want {
			t.Errorf("%s: %q, want %q", source, got, want)
		}
	}
	if !IsWatched(pod+"volumes/kubernetes.io~downward-api/labels") || IsWatched(pod+"volumes/kubernetes.io~empty-dir/cache") {
		t.Error("what kubelet exchanges is watched, and nothing else")
	}
	if got := EphemeralPath(pod + "volumes/kubernetes.io~empty-dir/cache/"); got != "/run/kata-containers/sandbox/ephemeral/cache" {
		t.Errorf("an emptyDir in memory is at %s", got)
	}
}

func TestTheFileOfAContainersLastWordsIsKnown(t *testing.T) {
	const file = "/var/lib/kubelet/pods/0e3c/containers/app/1f2e3d4c"
	bind := func(source, destination string) specs.Mount {
		return specs.Mount{Type: "bind", Source: source, Destination: destination, Options: []string{"rbind", "rw"}}
	}
	named := map[string]string{agentproto.AnnotationMessagePath: "/var/why"}
	for _, tc := range []struct {
		name              string
		mounts            []specs.Mount
		annotations       map[string]string
		want, destination string // the source, and what the agent is told if it is not what it expects
	}{
		{"none", []specs.Mount{bind("/host", "/data")}, nil, "", ""},
		{"at the usual place", []specs.Mount{bind("/host", "/data"), bind("/x/log", "/dev/termination-log")}, nil, "/x/log", ""},
		{"where kubelet says", []specs.Mount{bind("/x", "/dev/termination-log"), bind("/log", "/var/why/")}, named, "/log", "/var/why/"},
		{"by kubelet's name for it", []specs.Mount{bind("/host", "/data"), bind(file, "/var/why")}, nil, file, "/var/why"},
		{"a part of a volume", []specs.Mount{bind("/var/lib/kubelet/pods/0e3c/volume-subpaths/v/app/0", "/x")}, nil, "", ""},
		{"no file of the host", []specs.Mount{{Type: "tmpfs", Source: "tmpfs", Destination: "/dev/termination-log"}}, nil, "", ""},
	} {
		s := full()
		s.Mounts = tc.mounts
		for k, v := range tc.annotations {
			s.Annotations[k] = v
		}
		if m, ok := MessageMount(s); m.Source != tc.want || ok != (tc.want != "") {
			t.Errorf("%s: %+v, %v", tc.name, m, ok)
		}
		out, _, err := For(s, Guest{ContainerID: "c1"})
		if err != nil || out.Annotations[agentproto.AnnotationMessagePath] != tc.destination {
			t.Errorf("%s: the agent is told %q, %v", tc.name, out.Annotations[agentproto.AnnotationMessagePath], err)
		}
	}
}

func TestAPageSizeOfALimit(t *testing.T) {
	for size, want := range map[string]int64{"2MB": 2 << 20, "1GB": 1 << 30, "64KB": 64 << 10} {
		if got, err := PageBytes(size); got != want || err != nil {
			t.Errorf("%s: %d, %v", size, got, err)
		}
	}
	for _, size := range []string{"", "MB", "2", "0MB", "-2MB", "2TB", "99999999999999MB"} {
		if _, err := PageBytes(size); !errors.Is(err, ErrUnsupported) {
			t.Errorf("%q: %v", size, err)
		}
	}
}

// The machine is the pod's host, and its settings are the agent's.
func TestTheKernelsFoldersAreTheMachinesAndReadOnly(t *testing.T) {
	bind := func(source string) specs.Mount {
		return specs.Mount{Type: "none", Source: source, Destination: "/host", Options: []string{"rbind", "rprivate", "rw"}}
	}
	for _, source := range []string{"/proc", "/sys/", "/sys/fs/cgroup", "/sys/class/net"} {
		kind, err := KindOf(bind(source))
		if err != nil || kind != GuestOwn {
			t.Errorf("%s: %v, %v", source, kind, err)
		}
		in := bind(source)
		got := Own(in)
		if want := []string{"rprivate", "bind", "ro", "nosuid", "noexec", "nodev"}; !slices.Equal(got.Options, want) ||
			got.Type != "bind" || got.Source != source || got.Destination != "/host" || in.Options[0] != "rbind" {
			t.Errorf("%s becomes %+v", source, got)
		}
	}
	for _, source := range []string{"/proc/1/root", "/proc/sys", "/proc/../proc/1"} {
		if _, err := KindOf(bind(source)); !errors.Is(err, ErrUnsupported) || !strings.Contains(err.Error(), "/host") {
			t.Errorf("%s: %v", source, err)
		}
	}
	// What containerd itself mounts stays as it is.
	in := specs.Mount{Type: "proc", Source: "proc", Destination: "/proc", Options: []string{"nosuid"}}
	if got := Own(in); got.Type != "proc" || !slices.Equal(got.Options, in.Options) {
		t.Errorf("%+v", got)
	}
	if got := Own(bind("/dev/null")); got.Source != "/dev/null" || ReadOnly(got) {
		t.Errorf("%+v", got)
	}
}

func TestNamespacesThatAMachineCannotHaveAreRefused(t *testing.T) {
	for name, change := range map[string]func(*specs.Spec){
		"hostUsers": func(s *specs.Spec) {
			s.Linux.Namespaces = append(s.Linux.Namespaces, specs.LinuxNamespace{Type: specs.UserNamespace})
		},
		"mappings": func(s *specs.Spec) { s.Linux.UIDMappings = []specs.LinuxIDMapping{{Size: 1}} },
		"nonsense": func(s *specs.Spec) {
			s.Linux.Namespaces = append(s.Linux.Namespaces, specs.LinuxNamespace{Type: "nonsense"})
		},
	} {
		s := full()
		change(s)
		if _, _, err := For(s, Guest{ContainerID: "c1"}); !errors.Is(err, ErrUnsupported) || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestWhoseProcessesAContainerSees(t *testing.T) {
	pid := func(path string) *specs.Spec {
		return &specs.Spec{Linux: &specs.Linux{Namespaces: []specs.LinuxNamespace{{Type: specs.PIDNamespace, Path: path}}}}
	}
	for want, spec := range map[PIDNamespace]*specs.Spec{PIDsHost: {Linux: &specs.Linux{}}, PIDsOwn: pid(""), PIDsShared: pid("/proc/7/ns/pid")} {
		if got := PIDs(spec); got != want {
			t.Errorf("%+v: %v, want %v", spec.Linux.Namespaces, got, want)
		}
	}
	s := full()
	s.Annotations[annotationPIDsOf] = "forged by the pod"
	out, _, err := For(s, Guest{ContainerID: "c1"})
	if _, there := out.Annotations[annotationPIDsOf]; err != nil || there {
		t.Errorf("a pod's own annotation reached the agent: %v, %v", out.Annotations, err)
	}
	if out, _, _ = For(s, Guest{ContainerID: "c1", PIDsOf: "c0"}); out.Annotations[annotationPIDsOf] != "c0" {
		t.Errorf("annotations %v", out.Annotations)
	}
}
