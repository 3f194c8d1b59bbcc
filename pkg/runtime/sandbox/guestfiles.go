package sandbox

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/katadirect/katadirect/pkg/agentproto"
	"github.com/katadirect/katadirect/pkg/runtime/sandbox/guestspec"
)

// defaultShmBytes is the size of a pod's shared memory where the host has none to compare with, as in Kata.
const defaultShmBytes = 64 << 20

// sharedMemory is the pod's /dev/shm as a file system of the guest, as large as the one the host made for the pod.
func sharedMemory(mounts []specs.Mount) *agentproto.Storage {
	size := int64(defaultShmBytes)
	for _, m := range mounts {
		if kind, err := guestspec.KindOf(m); err != nil || kind != guestspec.PodMemory {
			continue
		}
		var stat unix.Statfs_t
		if unix.Statfs(m.Source, &stat) == nil && stat.Type == unix.TMPFS_MAGIC && stat.Blocks > 0 {
			size = int64(stat.Blocks) * stat.Bsize
		}
	}
	return &agentproto.Storage{
		Driver: "ephemeral", Source: "shm", Fstype: "tmpfs", MountPoint: guestspec.ShmDir,
		Options: []string{"noexec", "nosuid", "nodev", "mode=1777", fmt.Sprintf("size=%d", size)},
	}
}

// hostname is the pod's name. A pod on the host's network has none of its own, and is called as the host is.
func hostname(spec *specs.Spec) string {
	if spec.Hostname != "" {
		return spec.Hostname
	}
	name, _ := os.Hostname() // without one the guest's stays as it is
	return name
}

// maxResolvConf is what of a resolv.conf is read; the resolver itself takes three servers.
const maxResolvConf = 16 << 10

// resolvConf returns the lines of the pod's resolv.conf for the guest itself. The containers get the file as a mount,
// so one that cannot be read is none.
func resolvConf(mounts []specs.Mount) []string {
	for _, m := range mounts {
		if m.Destination != "/etc/resolv.conf" || !guestspec.IsBind(m) {
			continue
		}
		f, err := os.OpenFile(m.Source, os.O_RDONLY|unix.O_NONBLOCK, 0)
		if err != nil {
			return nil
		}
		defer func() { _ = f.Close() }()
		var lines []string
		for scan := bufio.NewScanner(io.LimitReader(f, maxResolvConf)); scan.Scan(); {
			if line := strings.TrimSpace(scan.Text()); line != "" {
				lines = append(lines, line)
			}
		}
		return lines
	}
	return nil
}
