package agentproto

import (
	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// The protocol carries what the OCI specification had when it was drawn up.
// What came later has no field, and is left out by the conversions to the
// protocol: domainname, umask, scheduler, I/O priority, CPU affinity, id-mapped
// mounts, time offsets, personality, memory policy, network devices, and the
// cgroup settings rdma, unified, burst and idle. So are other systems' parts.

// SpecToProto converts an OCI specification to the protocol's form. nil gives
// nil.
func SpecToProto(s *specs.Spec) *Spec {
	if s == nil {
		return nil
	}
	out := &Spec{
		Version:     s.Version,
		Process:     ProcessToProto(s.Process),
		Hostname:    s.Hostname,
		Mounts:      convert(s.Mounts, mountToProto),
		Annotations: s.Annotations,
		Linux:       linuxToProto(s.Linux),
	}
	if s.Root != nil {
		out.Root = &Root{Path: s.Root.Path, Readonly: s.Root.Readonly}
	}
	if h := s.Hooks; h != nil {
		out.Hooks = &Hooks{
			//lint:ignore SA1019 deprecated, and still in use
			Prestart:        convert(h.Prestart, hookToProto),
			CreateRuntime:   convert(h.CreateRuntime, hookToProto),
			CreateContainer: convert(h.CreateContainer, hookToProto),
			StartContainer:  convert(h.StartContainer, hookToProto),
			Poststart:       convert(h.Poststart, hookToProto),
			Poststop:        convert(h.Poststop, hookToProto),
		}
	}
	return out
}

// SpecFromProto is the inverse of SpecToProto. nil gives nil.
func SpecFromProto(p *Spec) *specs.Spec {
	if p == nil {
		return nil
	}
	out := &specs.Spec{
		Version:     p.Version,
		Process:     ProcessFromProto(p.Process),
		Hostname:    p.Hostname,
		Mounts:      convert(p.Mounts, mountFromProto),
		Annotations: p.Annotations,
		Linux:       linuxFromProto(p.Linux),
	}
	if p.Root != nil {
		out.Root = &specs.Root{Path: p.Root.Path, Readonly: p.Root.Readonly}
	}
	if h := p.Hooks; h != nil {
		out.Hooks = &specs.Hooks{
			//lint:ignore SA1019 deprecated, and still in use
			Prestart:        convert(h.Prestart, hookFromProto),
			CreateRuntime:   convert(h.CreateRuntime, hookFromProto),
			CreateContainer: convert(h.CreateContainer, hookFromProto),
			StartContainer:  convert(h.StartContainer, hookFromProto),
			Poststart:       convert(h.Poststart, hookFromProto),
			Poststop:        convert(h.Poststop, hookFromProto),
		}
	}
	return out
}

// ProcessToProto converts one process of an OCI specification, such as the one
// an exec asks for. nil gives nil.
func ProcessToProto(p *specs.Process) *Process {
	if p == nil {
		return nil
	}
	out := &Process{
		Terminal: p.Terminal,
		User: &User{
			UID:            p.User.UID,
			GID:            p.User.GID,
			AdditionalGids: p.User.AdditionalGids,
			Username:       p.User.Username,
		},
		Args:            p.Args,
		Env:             p.Env,
		Cwd:             p.Cwd,
		NoNewPrivileges: p.NoNewPrivileges,
		ApparmorProfile: p.ApparmorProfile,
		OOMScoreAdj:     number[int64](p.OOMScoreAdj),
		SelinuxLabel:    p.SelinuxLabel,
		Rlimits: convert(p.Rlimits, func(r specs.POSIXRlimit) *POSIXRlimit {
			return &POSIXRlimit{Type: r.Type, Hard: r.Hard, Soft: r.Soft}
		}),
	}
	if b := p.ConsoleSize; b != nil {
		out.ConsoleSize = &Box{Height: uint32(b.Height), Width: uint32(b.Width)}
	}
	if c := p.Capabilities; c != nil {
		out.Capabilities = &LinuxCapabilities{
			Bounding:    c.Bounding,
			Effective:   c.Effective,
			Inheritable: c.Inheritable,
			Permitted:   c.Permitted,
			Ambient:     c.Ambient,
		}
	}
	return out
}

// ProcessFromProto is the inverse of ProcessToProto. nil gives nil.
func ProcessFromProto(p *Process) *specs.Process {
	if p == nil {
		return nil
	}
	out := &specs.Process{
		Terminal:        p.Terminal,
		Args:            p.Args,
		Env:             p.Env,
		Cwd:             p.Cwd,
		NoNewPrivileges: p.NoNewPrivileges,
		ApparmorProfile: p.ApparmorProfile,
		OOMScoreAdj:     number[int](p.OOMScoreAdj),
		SelinuxLabel:    p.SelinuxLabel,
		Rlimits: convert(p.Rlimits, func(r *POSIXRlimit) specs.POSIXRlimit {
			return specs.POSIXRlimit{Type: r.Type, Hard: r.Hard, Soft: r.Soft}
		}),
	}
	if u := p.User; u != nil {
		out.User = specs.User{
			UID:            u.UID,
			GID:            u.GID,
			AdditionalGids: u.AdditionalGids,
			Username:       u.Username,
		}
	}
	if b := p.ConsoleSize; b != nil {
		out.ConsoleSize = &specs.Box{Height: uint(b.Height), Width: uint(b.Width)}
	}
	if c := p.Capabilities; c != nil {
		out.Capabilities = &specs.LinuxCapabilities{
			Bounding:    c.Bounding,
			Effective:   c.Effective,
			Inheritable: c.Inheritable,
			Permitted:   c.Permitted,
			Ambient:     c.Ambient,
		}
	}
	return out
}

func mountToProto(m specs.Mount) *Mount {
	return &Mount{Destination: m.Destination, Source: m.Source, Type: m.Type, Options: m.Options}
}

func mountFromProto(m *Mount) specs.Mount {
	return specs.Mount{Destination: m.Destination, Source: m.Source, Type: m.Type, Options: m.Options}
}

func hookToProto(h specs.Hook) *Hook {
	return &Hook{Path: h.Path, Args: h.Args, Env: h.Env, Timeout: number[int64](h.Timeout)}
}

func hookFromProto(h *Hook) specs.Hook {
	return specs.Hook{Path: h.Path, Args: h.Args, Env: h.Env, Timeout: number[int](h.Timeout)}
}

// convert maps a list; an empty one becomes nil, as omitempty would have it.
func convert[A, B any](in []A, f func(A) B) []B {
	if len(in) == 0 {
		return nil
	}
	out := make([]B, 0, len(in))
	for _, v := range in {
		out = append(out, f(v))
	}
	return out
}

type integer interface {
	~int | ~int32 | ~int64 | ~uint | ~uint16 | ~uint32 | ~uint64
}

// number converts an optional number between the two sides' integer types.
func number[B, A integer](in *A) *B {
	if in == nil {
		return nil
	}
	v := B(*in)
	return &v
}
