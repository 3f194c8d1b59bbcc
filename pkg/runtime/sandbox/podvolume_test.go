package sandbox

import (
	"errors"
	"os"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/katadirect/katadirect/pkg/agentproto"
	"github.com/katadirect/katadirect/pkg/runtime/sandbox/guestspec"
)

// podVolume makes one of kubelet's volumes, of the file system that is given, or a folder of the host's.
func (h *host) podVolume(plugin, name, fstype, options string) string {
	h.t.Helper()
	path := h.folder("pods/uid/volumes/kubernetes.io~" + plugin + "/" + name)
	if fstype != "" {
		if err := unix.Mount("none", path, fstype, 0, options); err != nil {
			h.t.Fatal(err)
		}
		h.t.Cleanup(func() { _ = unix.Unmount(path, unix.MNT_DETACH) })
	}
	return path
}

// given is what the agent was told of a container's mount on destination.
func (h *host) given(id, destination string) (*agentproto.Mount, *agentproto.Storage) {
	h.t.Helper()
	r := h.agent.requests[id]
	for _, m := range r.GetOCI().GetMounts() {
		if m.GetDestination() != destination {
			continue
		}
		for _, s := range r.GetStorages() {
			if s.GetMountPoint() == m.GetSource() {
				return m, s
			}
		}
		return m, nil
	}
	h.t.Fatalf("container %s has no mount on %s", id, destination)
	return nil, nil
}

func TestVolumesOfKubeletThatAreMoreThanAFolder(t *testing.T) {
	h := newHost(t)
	s := h.create()
	memory := h.podVolume("empty-dir", "memory", "tmpfs", "size=4m")
	if err := errors.Join(os.Chown(memory, 0, 3000), unix.Chmod(memory, 0o2770)); err != nil {
		t.Fatal(err)
	}
	unlimited := h.podVolume("empty-dir", "unlimited", "tmpfs", "size=64g")
	huge := h.podVolume("empty-dir", "huge", "hugetlbfs", "pagesize=2M")
	settings := h.podVolume("configmap", "settings", "", "")
	disk := h.podVolume("empty-dir", "disk", "", "")
	request := func(id string) ContainerRequest {
		r := h.container(id, bind(memory, "/memory"), bind(unlimited, "/unlimited"), bind(huge, "/huge"), bind(settings, "/settings"), bind(disk, "/disk"))
		r.Spec.Linux = &specs.Linux{Resources: &specs.LinuxResources{HugepageLimits: []specs.LinuxHugepageLimit{
			{Pagesize: "1GB", Limit: 0}, {Pagesize: "2MB", Limit: 8 << 20}}}}
		return r
	}
	for _, id := range []string{"c1", "c2"} {
		if err := s.CreateContainer(t.Context(), request(id)); err != nil {
			t.Fatal(err)
		}
	}
	const ephemeral = "/run/kata-containers/sandbox/ephemeral/"
	for destination, want := range map[string]struct{ driver, fstype, mountPoint, options string }{
		"/memory":    {"ephemeral", "tmpfs", ephemeral + "memory", "mode=2770 fsgid=3000 size=4194304"},
		"/unlimited": {"ephemeral", "tmpfs", ephemeral + "unlimited", "mode=1777"},
		"/huge":      {"ephemeral", "hugetlbfs", ephemeral + "huge", "mode=0755 pagesize=2097152 size=8388608"},
	} {
		m, storage := h.given("c1", destination)
		if storage.GetDriver() != want.driver || storage.GetFstype() != want.fstype || m.GetSource() != want.mountPoint ||
			strings.Join(storage.GetOptions(), " ") != want.options || m.GetType() != "bind" {
			t.Errorf("%s: mount %v, storage %v", destination, m, storage)
		}
	}
	for _, destination := range []string{"/memory", "/settings", "/disk"} {
		one, storage := h.given("c1", destination)
		two, _ := h.given("c2", destination)
		if one.GetSource() != two.GetSource() {
			t.Errorf("%s is two places for two containers: %s and %s", destination, one.GetSource(), two.GetSource())
		}
		if destination == "/settings" && (storage.GetDriver() != "watchable-bind" ||
			!strings.HasPrefix(storage.GetSource(), "/run/kata-containers/shared/containers/c1-") ||
			!strings.HasPrefix(storage.GetMountPoint(), "/run/kata-containers/shared/containers/watchable/c1-")) {
			t.Errorf("a configMap is %v", storage)
		}
		if destination == "/disk" && storage != nil {
			t.Errorf("a folder on disk is %v", storage)
		}
	}

	none := h.container("c3", bind(huge, "/huge"))
	if err := s.CreateContainer(t.Context(), none); !errors.Is(err, guestspec.ErrUnsupported) || !strings.Contains(err.Error(), "huge pages") {
		t.Errorf("huge pages without a limit: %v", err)
	}
}

func TestADebuggingContainerIsGivenTheOnlyTargetThatThereCanBe(t *testing.T) {
	h := newHost(t)
	s := h.create()
	create := func(id, pidPath string) string {
		t.Helper()
		r := h.container(id)
		r.Spec.Annotations = map[string]string{"io.kubernetes.cri.container-type": "container"}
		r.Spec.Linux = &specs.Linux{Namespaces: []specs.LinuxNamespace{{Type: specs.PIDNamespace, Path: pidPath}}}
		if err := s.CreateContainer(t.Context(), r); err != nil {
			t.Fatal(err)
		}
		if shares := h.agent.requests[id].GetSandboxPidns(); shares != (pidPath != "") {
			t.Errorf("%s shares: %v", id, shares)
		}
		return h.agent.requests[id].GetOCI().GetAnnotations()["katadirect.io/pids-of"]
	}
	const shared = "/proc/4711/ns/pid"
	if target := create("all", shared); target != "" {
		t.Errorf("in a pod that shares one namespace the target is %q", target)
	}
	create("init", "")
	if _, err := s.Wait(t.Context(), "init", ""); err != nil {
		t.Fatal(err)
	}
	create("app", "")
	if target := create("debug", shared); target != "app" {
		t.Errorf("the target is %q", target)
	}
	create("sidecar", "")
	if target := create("debug2", shared); target != "" {
		t.Errorf("of two the target is %q", target)
	}
}
