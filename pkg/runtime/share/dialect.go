package share

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// There are two programs called virtiofsd: QEMU's own in C, up to QEMU 7.2, and its successor in Rust. Kata's
// configuration speaks the successor's language; for the older one it is translated.

// cDaemonMark is what only the older one says to --version.
const cDaemonMark = "FUSE kernel interface"

// versionTimeout bounds asking the daemon which of the two it is.
const versionTimeout = 10 * time.Second

// daemonArgs makes the arguments that serve shared on descriptor 3.
func daemonArgs(ctx context.Context, c Config, shared string) ([]string, error) {
	ctx, cancel := context.WithTimeout(ctx, versionTimeout)
	defer cancel()
	version, err := exec.CommandContext(ctx, c.Daemon, "--version").CombinedOutput()
	if err != nil {
		return nil, fmt.Errorf("virtiofsd cannot be run (virtio_fs_daemon = %q): %w", c.Daemon, err)
	}
	extra := withFileLimit(c.Args)
	if strings.Contains(string(version), cDaemonMark) {
		return cDaemonArgs(c.Cache, extra, shared)
	}
	return rustDaemonArgs(c.Cache, extra, shared), nil
}

func rustDaemonArgs(cache string, extra []string, shared string) []string {
	if cache == "none" {
		cache = "never"
	}
	return append([]string{"--fd=3", "--shared-dir=" + shared, "--cache=" + cache}, extra...)
}

func cDaemonArgs(cache string, extra []string, shared string) ([]string, error) {
	switch cache {
	case "never":
		cache = "none"
	case "metadata":
		return nil, errors.New(`virtio_fs_cache = "metadata" needs the newer virtiofsd: set virtio_fs_daemon, or use auto`)
	}
	// In a -o list a comma separates; sandbox ids have none, but the configured root could.
	if strings.Contains(shared, ",") {
		return nil, fmt.Errorf("the shared folder's path %q holds a comma", shared)
	}
	args := []string{"--fd=3", "-f", "-o", "source=" + shared, "-o", "cache=" + cache}
	for _, a := range extra {
		if option, ok := cOptions[a]; ok {
			args = append(args, "-o", option)
			continue
		}
		args = append(args, a)
	}
	return args, nil
}

// cOptions are the newer one's switches that the older one has as mount options. Those that both spell alike
// (--thread-pool-size, --rlimit-nofile, --syslog, -o …) pass as they are.
var cOptions = map[string]string{
	"--announce-submounts": "announce_submounts",
	"--xattr":              "xattr",
	"--posix-acl":          "posix_acl",
	"--security-label":     "security_label",
	"--writeback":          "writeback",
	"--allow-direct-io":    "allow_direct_io",
	"--no-killpriv-v2":     "no_killpriv_v2",
	"--no-readdirplus":     "no_readdirplus",
	"--sandbox=namespace":  "sandbox=namespace",
	"--sandbox=chroot":     "sandbox=chroot",
}

// wantedFiles is what both daemons want as their limit of open files; they keep one for every file that the guest
// remembers.
const wantedFiles = 1_000_000

// withFileLimit asks for as many open files as this process may have, where that is less than the daemon wants:
// without the privilege to raise the limit it would go on with the soft one, which is often 1,024.
func withFileLimit(args []string) []string {
	given := func(a string) bool { return strings.HasPrefix(a, "--rlimit-nofile") }
	var limit unix.Rlimit
	if slices.ContainsFunc(args, given) || unix.Getrlimit(unix.RLIMIT_NOFILE, &limit) != nil || limit.Max >= wantedFiles {
		return args
	}
	return append(slices.Clone(args), fmt.Sprintf("--rlimit-nofile=%d", limit.Max))
}
