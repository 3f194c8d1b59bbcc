package container

import (
	"fmt"
	"path/filepath"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// Surroundings are what the sandbox shares among its containers.
type Surroundings struct {
	// IPC and UTS are namespace files of the pod.
	IPC, UTS string
	// PID is the pid namespace file to join, "" for a new namespace.
	PID string
}

// crunVersion is of the OCI specification, and every crun knows it.
const crunVersion = "1.0.2"

// adapt changes a specification that was written for a container on the host
// into one for a container in this guest. What the guest does not have, or
// what the machine stands in for, is left out:
//
//   - hooks, SELinux and AppArmor names, annotations: they speak of the host,
//     and crun obeys some annotations;
//   - the network namespace: the machine is one;
//   - cgroup settings that only cgroup v1 has.
func adapt(spec *specs.Spec, id, cgroupsPath string, s Surroundings) error {
	switch {
	case spec.Process == nil || len(spec.Process.Args) == 0:
		return fmt.Errorf("%w: no command to run", ErrSpec)
	case spec.Root == nil || !filepath.IsAbs(spec.Root.Path):
		return fmt.Errorf("%w: no absolute path of a root file system", ErrSpec)
	case spec.Linux == nil:
		return fmt.Errorf("%w: not for Linux", ErrSpec)
	}
	// containerd 2 writes a version that Debian 12's crun refuses. Versions
	// only ever add fields, and crun leaves alone those it does not know.
	spec.Version = crunVersion
	spec.Hooks = nil
	spec.Annotations = nil
	adaptProcess(spec.Process)

	linux := spec.Linux
	linux.CgroupsPath = filepath.Join(cgroupsPath, id)
	linux.MountLabel = ""
	linux.IntelRdt = nil
	linux.Resources = cgroup2Resources(linux.Resources)
	// Debian 12's crun loses the propagation of the container's mounts unless
	// the root's is one of the receiving kinds.
	if linux.RootfsPropagation != "rshared" && linux.RootfsPropagation != "shared" {
		linux.RootfsPropagation = "rslave"
	}
	linux.Namespaces = namespaces(linux.Namespaces, s)
	return nil
}

func adaptProcess(p *specs.Process) {
	p.ApparmorProfile = ""
	p.SelinuxLabel = ""
}

// namespaces are the container's in the guest.
func namespaces(asked []specs.LinuxNamespace, s Surroundings) []specs.LinuxNamespace {
	out := []specs.LinuxNamespace{
		{Type: specs.MountNamespace},
		// So that the container sees its own cgroup as the root.
		{Type: specs.CgroupNamespace},
		{Type: specs.PIDNamespace, Path: s.PID},
		// Also where it asks for the host's: to the pod, the host is the machine.
		{Type: specs.IPCNamespace, Path: s.IPC},
		{Type: specs.UTSNamespace, Path: s.UTS},
	}
	for _, n := range asked {
		switch n.Type {
		case specs.UserNamespace:
			// A path is one of the host's.
			out = append(out, specs.LinuxNamespace{Type: n.Type})
		}
	}
	return out
}

// cgroup2Resources leaves out what cgroup v2 does not have: crun refuses a
// container that asks for it.
func cgroup2Resources(r *specs.LinuxResources) *specs.LinuxResources {
	if r == nil {
		return nil
	}
	r.Network = nil
	if m := r.Memory; m != nil {
		//lint:ignore SA1019 deprecated, and still sent
		m.Kernel, m.KernelTCP = nil, nil
		m.Swappiness, m.DisableOOMKiller = nil, nil
	}
	if c := r.CPU; c != nil {
		c.RealtimePeriod, c.RealtimeRuntime = nil, nil
	}
	return r
}

// networkSysctls takes the settings of the network out of a specification:
// crun refuses them where it makes no network namespace. The machine is the
// pod's, so the caller may make them true of the whole machine.
func networkSysctls(linux *specs.Linux) map[string]string {
	taken := make(map[string]string)
	kept := make(map[string]string)
	for key, value := range linux.Sysctl {
		if isNetworkSysctl(key) {
			taken[key] = value
		} else {
			kept[key] = value
		}
	}
	linux.Sysctl = kept
	return taken
}

func isNetworkSysctl(key string) bool {
	return strings.HasPrefix(strings.ReplaceAll(key, "/", "."), "net.")
}

// hasOtherSysctls says whether there are settings that crun makes.
func hasOtherSysctls(linux *specs.Linux) bool {
	for key := range linux.Sysctl {
		if !isNetworkSysctl(key) {
			return true
		}
	}
	return false
}
