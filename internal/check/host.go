package check

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/katadirect/katadirect/pkg/runtime/config"
)

// checkKernel: the file share clones mounts and sets their attributes, which Linux can since 5.12.
func checkKernel(_ context.Context, o Options, _ config.Config) []Finding {
	const name = "kernel"
	major, rest, _ := strings.Cut(o.KernelRelease, ".")
	minor := rest
	if end := strings.IndexFunc(rest, func(r rune) bool { return r < '0' || r > '9' }); end >= 0 {
		minor = rest[:end]
	}
	a, errA := strconv.Atoi(major)
	b, errB := strconv.Atoi(minor)
	if err := errors.Join(errA, errB); err != nil {
		return []Finding{warning(name, "see that it is Linux 5.12 or later", "its version is not known: %q", o.KernelRelease)}
	}
	if a < 5 || a == 5 && b < 12 {
		return []Finding{failure(name, "use Linux 5.12 or later", "Linux %s has no mount_setattr, and no file can be shared with a guest", o.KernelRelease)}
	}
	return []Finding{ok(name, "Linux %s", o.KernelRelease)}
}

func kernelRelease() string {
	var name unix.Utsname
	if err := unix.Uname(&name); err != nil {
		return ""
	}
	return unix.ByteSliceToString(name.Release[:])
}

// checkCgroups: containerd puts every pod into one, and the guest's own are in its image.
func checkCgroups(_ context.Context, o Options, _ config.Config) []Finding {
	const name = "cgroups"
	if _, err := os.Stat(filepath.Join(o.CgroupRoot, "cgroup.controllers")); err == nil {
		return []Finding{ok(name, "version 2")}
	}
	entries, err := os.ReadDir(o.CgroupRoot)
	if err != nil || len(entries) == 0 {
		return []Finding{failure(name, "mount them: mount -t cgroup2 none "+o.CgroupRoot, "there are none at %s: no pod can be made", o.CgroupRoot)}
	}
	return []Finding{ok(name, "version 1")}
}

// checkNetwork looks for what the configured network model needs of the host.
func checkNetwork(ctx context.Context, o Options, c config.Config) []Finding {
	const name = "network"
	model := c.Runtime.NetworkModel
	switch model {
	case config.NetworkNone:
		return []Finding{ok(name, "none, as the configuration says")}
	case config.NetworkPasst:
		return []Finding{checkPasst(ctx, o)}
	}
	if model == config.NetworkMacvtap {
		return []Finding{failure(name, "set internetworking_model to \"tcfilter\", \"passt\" or \"none\"",
			"internetworking_model = %q is not supported: every pod will fail with it", model)}
	}
	tun, err := os.OpenFile(o.TunDevice, os.O_RDWR, 0)
	if err != nil {
		return []Finding{failure(name, "modprobe tun, or set internetworking_model = \"passt\" or \"none\"",
			"internetworking_model = %q needs %s: %v", model, o.TunDevice, err)}
	}
	if err := tun.Close(); err != nil {
		return []Finding{warning(name, "see the host's log", "%v", err)}
	}
	return []Finding{ok(name, "%s, over %s", model, o.TunDevice)}
}

// checkPasst looks for the program, and for the one sign of itself that Debian 12's gives: it does not know its version.
// That one takes the guest's acknowledgement of a new connection for none, waits for it eight times, and then ends the
// connection, unless the server has sent something by then.
func checkPasst(ctx context.Context, o Options) Finding {
	const name, model = "network", config.NetworkPasst
	program, err := findProgram(model, o.ShimDirs)
	if err != nil {
		return failure(name, "apt-get install passt, or set another internetworking_model", "internetworking_model = %q, and there is no passt", model)
	}
	version, err := o.versionOf(ctx, program)
	if err != nil {
		return failure(name, "see what is wrong with it, or set another internetworking_model", "%v", err)
	}
	if strings.Contains(version, "unknown version") {
		return warning(name, "install a later passt, or set internetworking_model = \"tcfilter\"",
			"%s does not know its version: it may be Debian 12's, which ends a connection if its server has sent nothing in the first 24 s", program)
	}
	return ok(name, "%s: %s, %s", model, program, version)
}

// checkChoices warns of settings that are for looking for faults, and of folders that are not there.
func checkChoices(_ context.Context, _ Options, c config.Config) []Finding {
	const name = "configuration"
	var findings []Finding
	if c.Agent.DebugConsole {
		findings = append(findings, warning(name, "set debug_console_enabled = false in [agent.kata] when you have found the fault",
			"the debug console is on: whoever is root here has a shell in every guest"))
	}
	for _, path := range c.Runtime.BindMounts {
		if _, err := os.Stat(path); err != nil {
			findings = append(findings, failure(name, "correct sandbox_bind_mounts: every pod will fail with it", "sandbox_bind_mounts: %v", err))
		}
	}
	return findings
}
