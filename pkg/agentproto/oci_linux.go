package agentproto

import (
	"os"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

func linuxToProto(l *specs.Linux) *Linux {
	if l == nil {
		return nil
	}
	out := &Linux{
		UIDMappings: convert(l.UIDMappings, idMappingToProto),
		GIDMappings: convert(l.GIDMappings, idMappingToProto),
		Sysctl:      l.Sysctl,
		Resources:   ResourcesToProto(l.Resources),
		CgroupsPath: l.CgroupsPath,
		Namespaces: convert(l.Namespaces, func(n specs.LinuxNamespace) *LinuxNamespace {
			return &LinuxNamespace{Type: string(n.Type), Path: n.Path}
		}),
		Devices:           convert(l.Devices, deviceToProto),
		Seccomp:           seccompToProto(l.Seccomp),
		RootfsPropagation: l.RootfsPropagation,
		MaskedPaths:       l.MaskedPaths,
		ReadonlyPaths:     l.ReadonlyPaths,
		MountLabel:        l.MountLabel,
	}
	if l.IntelRdt != nil {
		out.IntelRdt = &LinuxIntelRdt{L3CacheSchema: l.IntelRdt.L3CacheSchema}
	}
	return out
}

func linuxFromProto(l *Linux) *specs.Linux {
	if l == nil {
		return nil
	}
	out := &specs.Linux{
		UIDMappings: convert(l.UIDMappings, idMappingFromProto),
		GIDMappings: convert(l.GIDMappings, idMappingFromProto),
		Sysctl:      l.Sysctl,
		Resources:   ResourcesFromProto(l.Resources),
		CgroupsPath: l.CgroupsPath,
		Namespaces: convert(l.Namespaces, func(n *LinuxNamespace) specs.LinuxNamespace {
			return specs.LinuxNamespace{Type: specs.LinuxNamespaceType(n.Type), Path: n.Path}
		}),
		Devices:           convert(l.Devices, deviceFromProto),
		Seccomp:           seccompFromProto(l.Seccomp),
		RootfsPropagation: l.RootfsPropagation,
		MaskedPaths:       l.MaskedPaths,
		ReadonlyPaths:     l.ReadonlyPaths,
		MountLabel:        l.MountLabel,
	}
	if l.IntelRdt != nil {
		out.IntelRdt = &specs.LinuxIntelRdt{L3CacheSchema: l.IntelRdt.L3CacheSchema}
	}
	return out
}

func idMappingToProto(m specs.LinuxIDMapping) *LinuxIDMapping {
	return &LinuxIDMapping{HostID: m.HostID, ContainerID: m.ContainerID, Size: m.Size}
}

func idMappingFromProto(m *LinuxIDMapping) specs.LinuxIDMapping {
	return specs.LinuxIDMapping{HostID: m.HostID, ContainerID: m.ContainerID, Size: m.Size}
}

func deviceToProto(d specs.LinuxDevice) *LinuxDevice {
	return &LinuxDevice{
		Path:     d.Path,
		Type:     d.Type,
		Major:    d.Major,
		Minor:    d.Minor,
		FileMode: number[uint32](d.FileMode),
		UID:      d.UID,
		GID:      d.GID,
	}
}

func deviceFromProto(d *LinuxDevice) specs.LinuxDevice {
	return specs.LinuxDevice{
		Path:     d.Path,
		Type:     d.Type,
		Major:    d.Major,
		Minor:    d.Minor,
		FileMode: number[os.FileMode](d.FileMode),
		UID:      d.UID,
		GID:      d.GID,
	}
}

func seccompToProto(s *specs.LinuxSeccomp) *LinuxSeccomp {
	if s == nil {
		return nil
	}
	return &LinuxSeccomp{
		DefaultAction: string(s.DefaultAction),
		Architectures: convert(s.Architectures, func(a specs.Arch) string { return string(a) }),
		Flags:         convert(s.Flags, func(f specs.LinuxSeccompFlag) string { return string(f) }),
		Syscalls: convert(s.Syscalls, func(c specs.LinuxSyscall) *LinuxSyscall {
			return &LinuxSyscall{
				Names:    c.Names,
				Action:   string(c.Action),
				ErrnoRet: number[uint32](c.ErrnoRet),
				Args: convert(c.Args, func(a specs.LinuxSeccompArg) *LinuxSeccompArg {
					return &LinuxSeccompArg{
						Index: uint64(a.Index), Value: a.Value, ValueTwo: a.ValueTwo, Op: string(a.Op),
					}
				}),
			}
		}),
	}
}

func seccompFromProto(s *LinuxSeccomp) *specs.LinuxSeccomp {
	if s == nil {
		return nil
	}
	return &specs.LinuxSeccomp{
		DefaultAction: specs.LinuxSeccompAction(s.DefaultAction),
		Architectures: convert(s.Architectures, func(a string) specs.Arch { return specs.Arch(a) }),
		Flags:         convert(s.Flags, func(f string) specs.LinuxSeccompFlag { return specs.LinuxSeccompFlag(f) }),
		Syscalls: convert(s.Syscalls, func(c *LinuxSyscall) specs.LinuxSyscall {
			return specs.LinuxSyscall{
				Names:    c.Names,
				Action:   specs.LinuxSeccompAction(c.Action),
				ErrnoRet: number[uint](c.ErrnoRet),
				Args: convert(c.Args, func(a *LinuxSeccompArg) specs.LinuxSeccompArg {
					return specs.LinuxSeccompArg{
						Index: uint(a.Index), Value: a.Value, ValueTwo: a.ValueTwo,
						Op: specs.LinuxSeccompOperator(a.Op),
					}
				}),
			}
		}),
	}
}
