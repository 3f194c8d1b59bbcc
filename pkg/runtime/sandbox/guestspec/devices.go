package guestspec

import (
	"fmt"
	"slices"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// number is a device's, as LinuxDevice has it.
type number struct{ major, minor int64 }

// characters lets the character devices through that have the same number everywhere, and refuses others: in the guest
// the host's number is that of another device, or of none. All those of the host, which a privileged container gets, are
// nobody's choice, and are left out.
func characters(s *specs.Spec, _ Guest) error {
	var kept []specs.LinuxDevice
	for _, d := range s.Linux.Devices {
		switch {
		case !isCharacter(d), hasOneNumber(d):
			kept = append(kept, d)
		case !HasHostDevices(s, d):
			return fmt.Errorf("character device %s (%d:%d) of the host: %w", d.Path, d.Major, d.Minor, ErrUnsupported)
		}
	}
	s.Linux.Devices = kept
	return nil
}

func isCharacter(d specs.LinuxDevice) bool { return d.Type == "c" || d.Type == "u" }

// hasOneNumber reports whether the device, whatever its path in the container, is one that every Linux has.
func hasOneNumber(d specs.LinuxDevice) bool {
	for _, n := range guestDevices {
		if n == (number{d.Major, d.Minor}) {
			return true
		}
	}
	return false
}

// devices lets the block devices through that the guest has, under numbers of its own which the agent puts in, and
// refuses others: the host's number may be that of another container's volume there.
func devices(s *specs.Spec, g Guest) error {
	for _, d := range s.Linux.Devices {
		if IsBlock(d) && !slices.Contains(g.Disks, d.Path) {
			return fmt.Errorf("block device %s of the host: %w", d.Path, ErrUnsupported)
		}
	}
	if len(g.DeviceRules) > 0 {
		var r specs.LinuxResources
		if s.Linux.Resources != nil {
			r = *s.Linux.Resources
		}
		r.Devices = slices.Clone(g.DeviceRules)
		s.Linux.Resources = &r
	}
	return nil
}

// IsBlock reports whether the device is a block device.
func IsBlock(d specs.LinuxDevice) bool { return d.Type == "b" }

// HasHostDevices reports whether the spec gives the container every device of the host, as containerd does for a
// privileged one unless it is told not to, and d is one of these: all devices are allowed, and d has the path that its
// number has on the host.
func HasHostDevices(s *specs.Spec, d specs.LinuxDevice) bool {
	if s.Linux == nil || !allowsAll(s.Linux.Resources) {
		return false
	}
	kind := uint32(unix.S_IFBLK)
	if isCharacter(d) {
		kind = unix.S_IFCHR
	}
	var stat unix.Stat_t
	err := unix.Stat(d.Path, &stat)
	return err == nil && stat.Mode&unix.S_IFMT == kind && stat.Rdev == unix.Mkdev(uint32(d.Major), uint32(d.Minor))
}

// DeviceRules returns the rules of the device cgroup for the guest: all devices, if the host's allow all or the container
// is privileged; else the character devices that they allow. Those of block devices are about the host's numbers; the
// agent adds the guest's.
func DeviceRules(s *specs.Spec) []specs.LinuxDeviceCgroup {
	if s.Linux == nil {
		return nil
	}
	if allowsAll(s.Linux.Resources) || isPrivileged(s) {
		return []specs.LinuxDeviceCgroup{{Allow: true, Access: everything}}
	}
	rules := []specs.LinuxDeviceCgroup{{Allow: false, Access: everything}}
	if s.Linux.Resources == nil {
		return rules
	}
	for _, rule := range s.Linux.Resources.Devices {
		if rule.Allow && rule.Type == "c" {
			rules = append(rules, rule)
		}
	}
	return rules
}

// isPrivileged reports whether the container is, by the capabilities that no other has together. It is to have the whole
// machine, while containerd, told to keep the host's devices from it, allows it only those that it names.
func isPrivileged(s *specs.Spec) bool {
	if s.Process == nil || s.Process.Capabilities == nil {
		return false
	}
	has := func(name string) bool { return slices.Contains(s.Process.Capabilities.Bounding, name) }
	return has("CAP_SYS_ADMIN") && has("CAP_SYS_RAWIO") && has("CAP_SYS_MODULE")
}

const everything = "rwm"

// allowsAll reports whether the last rule that is about all devices allows them.
func allowsAll(r *specs.LinuxResources) bool {
	all := false
	if r == nil {
		return all
	}
	for _, rule := range r.Devices {
		if (rule.Type == "" || rule.Type == "a") && isAny(rule.Major) && isAny(rule.Minor) {
			all = rule.Allow && rule.Access == everything
		}
	}
	return all
}

func isAny(number *int64) bool { return number == nil || *number == -1 }

// Access is what of "rwm" the rules let the container do with a device, in the way of the device cgroup: nothing, unless
// a rule allows it, and a later rule has the last word. A rule that cannot be understood allows nothing.
func Access(s *specs.Spec, d specs.LinuxDevice) string {
	if s.Linux == nil || s.Linux.Resources == nil {
		return ""
	}
	may := map[rune]bool{}
	for _, rule := range s.Linux.Resources.Devices {
		if !isAbout(rule, d) {
			continue
		}
		for _, c := range everything {
			if strings.ContainsRune(rule.Access, c) || !rule.Allow && !isAccess(rule.Access) {
				may[c] = rule.Allow && isAccess(rule.Access)
			}
		}
	}
	access := ""
	for _, c := range everything {
		if may[c] {
			access += string(c)
		}
	}
	return access
}

func isAbout(rule specs.LinuxDeviceCgroup, d specs.LinuxDevice) bool {
	return (rule.Type == "" || rule.Type == "a" || rule.Type == d.Type) &&
		(isAny(rule.Major) || *rule.Major == d.Major) && (isAny(rule.Minor) || *rule.Minor == d.Minor)
}

func isAccess(s string) bool { return s != "" && strings.Trim(s, everything) == "" }
