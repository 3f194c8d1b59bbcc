package crio

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/uuid"
	"github.com/opencontainers/runtime-spec/specs-go"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// What CRI-O notes in the annotations of a container's specification, as far as a shim could care.
const (
	annotationContainerID   = "io.kubernetes.cri-o.ContainerID"
	annotationContainerType = "io.kubernetes.cri-o.ContainerType"
	annotationSandboxID     = "io.kubernetes.cri-o.SandboxID"
)

// readConfig reads a file of the crictl walk-through.
func readConfig[T any](t *testing.T, name string) *T {
	t.Helper()
	data, err := os.ReadFile(filepath.Join("../../docs/crictl", name))
	if err != nil {
		t.Fatal(err)
	}
	config := new(T)
	if err := json.Unmarshal(data, config); err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return config
}

func newID() string { return strings.ReplaceAll(uuid.NewString()+uuid.NewString(), "-", "") }

// podSpec is CRI-O's specification of a pod's own container.
func (e *engine) podSpec(config *cri.PodSandboxConfig) *specs.Spec {
	e.Helper()
	id := newID()
	dir := filepath.Join(e.runDir, id, "userdata")
	shm := filepath.Join(dir, "shm")
	resolv := filepath.Join(dir, "resolv.conf")
	e.inLab("mkdir -p " + shm)
	if err := os.WriteFile(resolv, []byte("nameserver "+strings.Join(config.GetDnsConfig().GetServers(), "\nnameserver ")+"\n"), 0o644); err != nil {
		e.Fatal(err)
	}
	netns := "/run/netns/" + id
	e.inLab("ip netns add " + id)
	e.Cleanup(func() { e.inLab("ip netns del " + id + "; umount /run/netns") })
	s := e.spec(id, id, []string{"/pause"}, netns)
	s.Hostname = config.GetHostname()
	s.Annotations[annotationContainerType] = "sandbox"
	s.Annotations["io.kubernetes.cri-o.Namespace"] = config.GetMetadata().GetNamespace()
	s.Annotations["io.kubernetes.cri-o.KubeName"] = config.GetMetadata().GetName()
	s.Mounts = append(s.Mounts,
		bind(shm, "/dev/shm", "rw"), bind(resolv, "/etc/resolv.conf", "ro", "nodev", "nosuid", "noexec"))
	return s
}

// containerSpec is CRI-O's specification of a container in the pod.
func (e *engine) containerSpec(pod *container, config *cri.ContainerConfig) *specs.Spec {
	e.Helper()
	netns := ""
	for _, n := range pod.spec.Linux.Namespaces {
		if n.Type == specs.NetworkNamespace {
			netns = n.Path
		}
	}
	s := e.spec(newID(), pod.id, append(config.GetCommand(), config.GetArgs()...), netns)
	s.Hostname = pod.spec.Hostname
	s.Annotations[annotationContainerType] = "container"
	s.Annotations["io.kubernetes.cri-o.ContainerName"] = config.GetMetadata().GetName()
	s.Annotations["io.kubernetes.cri-o.Volumes"] = "[]"
	for _, env := range config.GetEnvs() {
		s.Process.Env = append(s.Process.Env, env.GetKey()+"="+string(env.GetValue()))
	}
	if dir := config.GetWorkingDir(); dir != "" {
		s.Process.Cwd = dir
	}
	if r := config.GetLinux().GetResources(); r != nil {
		limit, shares := r.GetMemoryLimitInBytes(), uint64(r.GetCpuShares())
		s.Linux.Resources = &specs.LinuxResources{
			Devices: []specs.LinuxDeviceCgroup{{Allow: false, Access: "rwm"}},
			Memory:  &specs.LinuxMemory{Limit: &limit, Swap: &limit}, CPU: &specs.LinuxCPU{Shares: &shares},
		}
	}
	for _, m := range config.GetMounts() {
		s.Mounts = append(s.Mounts, bind(m.GetHostPath(), m.GetContainerPath(), "rw"))
	}
	for _, m := range pod.spec.Mounts {
		if m.Type == "bind" {
			s.Mounts = append(s.Mounts, m)
		}
	}
	return s
}

func bind(source, destination string, options ...string) specs.Mount {
	return specs.Mount{Type: "bind", Source: source, Destination: destination, Options: append([]string{"rbind", "rprivate", "bind"}, options...)}
}

// spec is what both kinds have in common.
func (e *engine) spec(id, sandboxID string, args []string, netns string) *specs.Spec {
	capabilities := []string{"CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FSETID", "CAP_FOWNER", "CAP_SETGID", "CAP_SETUID", "CAP_SETPCAP", "CAP_NET_BIND_SERVICE", "CAP_KILL"}
	score := 1000
	return &specs.Spec{
		Version: "1.0.2-dev",
		// containers/storage has mounted it.
		Root: &specs.Root{Path: e.rootfs},
		Process: &specs.Process{
			Args: args, Cwd: "/", Env: []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root"},
			Capabilities: &specs.LinuxCapabilities{Bounding: capabilities, Effective: capabilities, Permitted: capabilities},
			OOMScoreAdj:  &score,
		},
		Annotations: map[string]string{
			annotationContainerID: id, annotationSandboxID: sandboxID,
			"io.container.manager":             "cri-o",
			"io.kubernetes.cri-o.LogPath":      "/var/log/pods/x.log",
			"io.kubernetes.cri-o.CgroupParent": "pod_1.slice",
			"io.kubernetes.cri-o.TTY":          "false",
		},
		Mounts: []specs.Mount{
			{Destination: "/proc", Type: "proc", Source: "proc", Options: []string{"nosuid", "noexec", "nodev"}},
			{Destination: "/dev", Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "strictatime", "mode=755", "size=65536k"}},
			{Destination: "/dev/pts", Type: "devpts", Source: "devpts", Options: []string{"nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"}},
			{Destination: "/dev/mqueue", Type: "mqueue", Source: "mqueue", Options: []string{"nosuid", "noexec", "nodev"}},
			{Destination: "/sys", Type: "sysfs", Source: "sysfs", Options: []string{"nosuid", "noexec", "nodev", "ro"}},
			{Destination: "/sys/fs/cgroup", Type: "cgroup", Source: "cgroup", Options: []string{"nosuid", "noexec", "nodev", "relatime", "ro"}},
		},
		Linux: &specs.Linux{
			CgroupsPath: "pod_1.slice:crio:" + id,
			Namespaces: []specs.LinuxNamespace{
				{Type: specs.PIDNamespace}, {Type: specs.MountNamespace},
				{Type: specs.NetworkNamespace, Path: netns},
				{Type: specs.IPCNamespace, Path: "/run/ipcns/" + sandboxID}, {Type: specs.UTSNamespace, Path: "/run/utsns/" + sandboxID},
			},
			MaskedPaths:   []string{"/proc/acpi", "/proc/kcore", "/proc/keys", "/sys/firmware"},
			ReadonlyPaths: []string{"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"},
		},
	}
}
