// Package guestspec turns the OCI spec that the host's runtime wrote for a container into the one that the guest is to
// run: what only the host has is taken out, and what the guest has elsewhere is renamed. It changes copies and touches
// nothing else; the sandbox calls it.
//
// What is taken out is what Kata's shim takes out (pkg/agentproto carries the rest), so that either agent gets the
// same. Sharing files, plugging devices and talking to the agent must never move in here.
package guestspec

import (
	"errors"
	"fmt"
	"maps"
	"path"
	"slices"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/katadirect/katadirect/pkg/agentproto"
)

// ErrUnsupported says that the spec asks for what cannot be had in a virtual machine.
var ErrUnsupported = errors.New("not possible in a virtual machine")

// Guest is what the transformation must know of the guest and the container.
type Guest struct {
	ContainerID string
	// Bundle is the container's bundle on the host; the agent only notes it.
	Bundle string
	// Rootfs is where the guest finds the root file system.
	Rootfs string
	// Seccomp says whether profiles are to be applied in the guest.
	Seccomp bool
	// PIDsOf is the container whose processes this one is to see, "" for its own or, if it asks for that, the pod's.
	PIDsOf string
	// Mounts are the container's mounts as the guest has them.
	Mounts []specs.Mount
	// Disks are the paths in the container of the block devices that were plugged into the machine for it.
	Disks []string
	// DeviceRules are the device cgroup's as DeviceRules has them; nil where the guest's agent would not apply them.
	DeviceRules []specs.LinuxDeviceCgroup
}

// steps each change one part of the copy.
var steps = []func(*specs.Spec, Guest) error{
	root, message, mounts, annotations, process, namespaces, characters, resources, cgroup, devices, seccomp, hostOnly,
}

// For returns the spec for the guest, and whether the container joins the pod's pid namespace. spec is not changed.
func For(spec *specs.Spec, g Guest) (guest *specs.Spec, sandboxPIDNS bool, err error) {
	if spec == nil || spec.Process == nil {
		return nil, false, fmt.Errorf("container %s: its spec has no process", g.ContainerID)
	}
	out := copyOf(spec)
	for _, step := range steps {
		if err := step(out, g); err != nil {
			return nil, false, fmt.Errorf("container %s: %w", g.ContainerID, err)
		}
	}
	return out, sharesPIDs(spec), nil
}

// copyOf copies as deep as the steps write.
func copyOf(spec *specs.Spec) *specs.Spec {
	out := *spec
	out.Annotations = maps.Clone(spec.Annotations)
	if spec.Linux == nil {
		out.Linux = &specs.Linux{}
		return &out
	}
	l := *spec.Linux
	l.Namespaces = slices.Clone(l.Namespaces)
	out.Linux = &l
	return &out
}

func root(s *specs.Spec, g Guest) error {
	readOnly := s.Root != nil && s.Root.Readonly
	s.Root = &specs.Root{Path: g.Rootfs, Readonly: readOnly}
	return nil
}

func mounts(s *specs.Spec, g Guest) error {
	s.Mounts = g.Mounts
	return nil
}

// message tells the agent where the container's last words will be, if kubelet's word for that has not come through. It is
// before mounts, which hides kubelet's names.
func message(s *specs.Spec, _ Guest) error {
	m, ok := MessageMount(s)
	if !ok || path.Clean(m.Destination) == agentproto.DefaultMessagePath {
		return nil
	}
	if s.Annotations == nil {
		s.Annotations = make(map[string]string)
	}
	s.Annotations[agentproto.AnnotationMessagePath] = m.Destination
	return nil
}

// Kata's own annotations, by which its agent tells the pod's pause container from the others.
const (
	annotationType   = "io.katacontainers.pkg.oci.container_type"
	annotationBundle = "io.katacontainers.pkg.oci.bundle_path"
	// annotationPIDsOf is ours: Kata's protocol has no word for the pid namespace of a container that is not the pod's
	// first. Kata's agent passes over it.
	annotationPIDsOf = "katadirect.io/pids-of"
)

func annotations(s *specs.Spec, g Guest) error {
	if s.Annotations == nil {
		s.Annotations = make(map[string]string)
	}
	s.Annotations[annotationType] = containerType(s.Annotations)
	s.Annotations[annotationBundle] = g.Bundle
	delete(s.Annotations, annotationPIDsOf)
	if g.PIDsOf != "" {
		s.Annotations[annotationPIDsOf] = g.PIDsOf
	}
	return nil
}

func containerType(annotations map[string]string) string {
	for _, key := range []string{
		"io.kubernetes.cri.container-type", "io.kubernetes.cri-o.ContainerType", "io.kubernetes.docker.type",
	} {
		switch annotations[key] {
		case "sandbox", "podsandbox":
			return "pod_sandbox"
		case "container":
			return "pod_container"
		}
	}
	return "single_container"
}

func process(s *specs.Spec, _ Guest) error {
	s.Process = Process(s.Process)
	return nil
}

// Process returns a process for the guest, a container's first or a later one. p is not changed. What refers to the
// host's security modules is dropped: the guest has none of their profiles, and could not apply them.
func Process(p *specs.Process) *specs.Process {
	out := *p
	out.ApparmorProfile = ""
	out.SelinuxLabel = ""
	return &out
}

// sharesPIDs: a path to a pid namespace means that of the pod.
func sharesPIDs(s *specs.Spec) bool { return PIDs(s) == PIDsShared }

// PIDNamespace says which processes a container is to see.
type PIDNamespace int

const (
	// PIDsHost is those of the host, which no machine can show: the container sees its own.
	PIDsHost PIDNamespace = iota
	// PIDsOwn is its own.
	PIDsOwn
	// PIDsShared is the pod's, or those of one container that it is to look into. The spec does not tell which: both
	// are the namespace of a process of the host, and that is the hypervisor for both.
	PIDsShared
)

// PIDs says which processes the spec's container is to see.
func PIDs(s *specs.Spec) PIDNamespace {
	if s.Linux == nil {
		return PIDsHost
	}
	for _, n := range s.Linux.Namespaces {
		switch {
		case n.Type == specs.PIDNamespace && n.Path == "":
			return PIDsOwn
		case n.Type == specs.PIDNamespace:
			return PIDsShared
		}
	}
	return PIDsHost
}

// IsOfPod says whether the spec is of one of a pod's containers, and not of the pod's own or one without a pod.
func IsOfPod(s *specs.Spec) bool { return containerType(s.Annotations) == "pod_container" }

// namespaces drops those that the machine itself stands for, and the host's paths of the rest. The agent makes the pid
// namespace, or joins the pod's.
func namespaces(s *specs.Spec, _ Guest) error {
	kept := s.Linux.Namespaces[:0]
	for _, n := range s.Linux.Namespaces {
		switch n.Type {
		case specs.CgroupNamespace, specs.NetworkNamespace, specs.TimeNamespace, specs.PIDNamespace:
		case specs.MountNamespace, specs.IPCNamespace, specs.UTSNamespace:
			kept = append(kept, specs.LinuxNamespace{Type: n.Type})
		case specs.UserNamespace:
			return fmt.Errorf("a user namespace (hostUsers: false): %w; the machine keeps root in the container from being "+
				"root on the host", ErrUnsupported)
		default:
			return fmt.Errorf("namespace of type %q: %w", n.Type, ErrUnsupported)
		}
	}
	s.Linux.Namespaces = kept
	if len(s.Linux.UIDMappings)+len(s.Linux.GIDMappings) > 0 {
		return fmt.Errorf("mappings of user ids: %w", ErrUnsupported)
	}
	return nil
}

// resources drops what is measured against the host's devices, processors and network. The limit of processes stays,
// which Kata's shim drops: it is the pod's, wherever it runs.
func resources(s *specs.Spec, _ Guest) error {
	s.Linux.Resources = Resources(s.Linux.Resources)
	return nil
}

// Resources returns the limits for the guest, for a spec or for an update. r is not changed; nil stays nil.
func Resources(r *specs.LinuxResources) *specs.LinuxResources {
	if r == nil {
		return nil
	}
	out := *r
	out.Devices, out.BlockIO, out.Network = nil, nil, nil
	if r.Pids != nil && (r.Pids.Limit == nil || *r.Pids.Limit <= 0) {
		out.Pids = nil // no limit, which not all runtimes know how to say
	}
	if r.CPU != nil {
		cpu := *r.CPU
		cpu.Cpus, cpu.Mems = "", ""
		out.CPU = &cpu
	}
	return &out
}

// cgroup gives the container a cgroup of its own at the top: the host's path is a systemd slice or kubelet's tree,
// neither of which the guest has.
func cgroup(s *specs.Spec, g Guest) error {
	s.Linux.CgroupsPath = "/" + g.ContainerID
	return nil
}

func seccomp(s *specs.Spec, g Guest) error {
	if !g.Seccomp {
		s.Linux.Seccomp = nil
	}
	return nil
}

// hostOnly drops what is the host's business or needs the host's hardware and labels.
func hostOnly(s *specs.Spec, _ Guest) error {
	s.Hooks = nil
	s.Linux.MountLabel = ""
	s.Linux.IntelRdt = nil
	s.Windows, s.Solaris, s.VM, s.ZOS, s.FreeBSD = nil, nil, nil, nil, nil
	return nil
}
