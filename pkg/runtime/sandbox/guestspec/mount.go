package guestspec

import (
	"fmt"
	"path"
	"slices"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// Kind says where a container's mount comes from in the guest.
type Kind int

const (
	// GuestOwn is a file system that the guest makes for itself: the mount stays as it is.
	GuestOwn Kind = iota
	// PodMemory is the pod's shared memory; SharedMemory rewrites it.
	PodMemory
	// HostBind is a file or folder of the host: a direct volume if there is a record of it, else to be shared.
	HostBind
)

// guestTypes are the file systems that are the kernel's own, and so the guest's.
var guestTypes = []string{
	"proc", "sysfs", "tmpfs", "ramfs", "mqueue", "devpts", "cgroup", "cgroup2", "bpf", "debugfs", "tracefs", "securityfs",
}

// guestDevices are character devices that every Linux has, under these names and numbers and with the same meaning.
var guestDevices = map[string]number{
	"/dev/null": {1, 3}, "/dev/zero": {1, 5}, "/dev/full": {1, 7}, "/dev/random": {1, 8}, "/dev/urandom": {1, 9},
	"/dev/tty": {5, 0}, "/dev/fuse": {10, 229},
}

// ShmDir is the guest's shared memory of the pod; the agent mounts it with the sandbox.
const ShmDir = "/run/kata-containers/sandbox/shm"

// KindOf tells the kind of a mount. ErrUnsupported: it is of a kind that the guest must not be given.
func KindOf(m specs.Mount) (Kind, error) {
	if !IsBind(m) {
		if slices.Contains(guestTypes, m.Type) {
			return GuestOwn, nil
		}
		return 0, fmt.Errorf("mount of type %q on %s: %w", m.Type, m.Destination, ErrUnsupported)
	}
	source := path.Clean(m.Source)
	_, own := guestDevices[source]
	switch {
	case m.Source == "":
		return 0, fmt.Errorf("bind mount on %s has no source", m.Destination)
	case isPodMemory(m):
		return PodMemory, nil
	case source == "/proc", below(source, "/sys"), own:
		return GuestOwn, nil
	case source == "/dev", below(source, "/dev/pts"), below(source, "/proc"):
		return 0, fmt.Errorf("bind mount of the host's %s on %s: %w", source, m.Destination, ErrUnsupported)
	}
	return HostBind, nil
}

// Own is a mount of what the guest makes for itself. A bind mount of the host's /proc or /sys becomes one of the
// machine's, in which nothing can be set: the machine is the pod's host, and its settings are the agent's. What is
// mounted below (the cgroups, below /sys) is not shown, because read-only would not reach there.
func Own(m specs.Mount) specs.Mount {
	source := path.Clean(m.Source)
	if !IsBind(m) || source != "/proc" && !below(source, "/sys") {
		return m
	}
	options := slices.DeleteFunc(slices.Clone(m.Options), func(o string) bool { return o == "rbind" || o == "bind" || o == "rw" })
	m.Type, m.Options = "bind", append(options, "bind", "ro", "nosuid", "noexec", "nodev")
	return m
}

// IsBind reports whether the mount is a bind mount, by its type or, as some callers have it, by its options alone.
func IsBind(m specs.Mount) bool {
	return m.Type == "bind" || slices.Contains(m.Options, "bind") || slices.Contains(m.Options, "rbind")
}

// ReadOnly reports whether the mount is; the last of ro and rw counts, as in mount(8).
func ReadOnly(m specs.Mount) bool {
	readOnly := false
	for _, o := range m.Options {
		switch o {
		case "ro", "rro":
			readOnly = true
		case "rw":
			readOnly = false
		}
	}
	return readOnly
}

// SharedMemory is the container's mount of the pod's shared memory, as Kata has it.
func SharedMemory(m specs.Mount) specs.Mount {
	m.Type, m.Source, m.Options = "bind", ShmDir, []string{"rbind"}
	return m
}

// FromGuest is a bind mount whose source is elsewhere in the guest. Everything else about it stays: what the caller
// asked for, read-only and propagation, the guest's runtime does.
func FromGuest(m specs.Mount, guestPath string) specs.Mount {
	m.Type, m.Source, m.Options = "bind", guestPath, slices.Clone(m.Options)
	if !slices.Contains(m.Options, "bind") && !slices.Contains(m.Options, "rbind") {
		m.Options = append(m.Options, "rbind")
	}
	return m
}

func below(path, dir string) bool { return path == dir || strings.HasPrefix(path, dir+"/") }
