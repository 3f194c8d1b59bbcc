package boot

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

type mount struct {
	target, source, fstype string
	flags                  uintptr
	data                   string
}

const plain = unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC

// early is mounted on the initramfs, and moved along when the root is
// switched; late is mounted on the new root.
var (
	early = []mount{
		{"/proc", "proc", "proc", plain, ""},
		{"/sys", "sysfs", "sysfs", plain, ""},
		{"/dev", "devtmpfs", "devtmpfs", unix.MS_NOSUID | unix.MS_NOEXEC, "mode=0755"},
	}
	late = []mount{
		{"/dev/pts", "devpts", "devpts", unix.MS_NOSUID | unix.MS_NOEXEC, "gid=5,mode=0620,ptmxmode=0666"},
		{"/dev/shm", "tmpfs", "tmpfs", plain, "mode=1777"},
		{"/run", "tmpfs", "tmpfs", unix.MS_NOSUID | unix.MS_NODEV, "mode=0755"},
		{"/tmp", "tmpfs", "tmpfs", unix.MS_NOSUID | unix.MS_NODEV, "mode=1777"},
		{"/sys/fs/cgroup", "cgroup2", "cgroup2", plain, "nsdelegate"},
	}
)

// MountEarly mounts what everything else is read from.
func MountEarly() error { return mountAll(early) }

// MountLate switches the root and mounts the rest.
func MountLate() error {
	if err := switchRoot(); err != nil {
		return fmt.Errorf("switch root: %w", err)
	}
	if err := mountAll(late); err != nil {
		return err
	}
	return nil
}

func mountAll(mounts []mount) error {
	for _, m := range mounts {
		if err := os.MkdirAll(m.target, 0o755); err != nil {
			return fmt.Errorf("mount %s: %w", m.target, err)
		}
		err := unix.Mount(m.source, m.target, m.fstype, m.flags, m.data)
		// The kernel may have mounted devtmpfs by itself.
		if err != nil && !errors.Is(err, unix.EBUSY) {
			return fmt.Errorf("mount %s: %w", m.target, err)
		}
	}
	return nil
}

// switchRoot puts a bind mount of the initramfs over the initramfs. Containers
// leave their root behind with pivot_root(2), which the kernel refuses on the
// initramfs itself, since nothing lies under it. No file is copied.
func switchRoot() error {
	const newRoot = "/newroot"
	if err := os.MkdirAll(newRoot, 0o755); err != nil {
		return err
	}
	if err := unix.Mount("/", newRoot, "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("bind the initramfs: %w", err)
	}
	for _, m := range early {
		if err := unix.Mount(m.target, newRoot+m.target, "", unix.MS_MOVE, ""); err != nil {
			return fmt.Errorf("move %s: %w", m.target, err)
		}
	}
	if err := os.Chdir(newRoot); err != nil {
		return err
	}
	if err := unix.Mount(".", "/", "", unix.MS_MOVE, ""); err != nil {
		return fmt.Errorf("move the new root: %w", err)
	}
	if err := unix.Chroot("."); err != nil {
		return err
	}
	if err := os.Chdir("/"); err != nil {
		return err
	}
	// What is mounted in here later must be seen by containers that asked for
	// it.
	return unix.Mount("", "/", "", unix.MS_SHARED|unix.MS_REC, "")
}

// CgroupRoot is where the containers' cgroups are, one folder for each.
const CgroupRoot = "/sys/fs/cgroup/k"

// ConsoleCgroups is where those of the debug console's programs are.
const ConsoleCgroups = "/sys/fs/cgroup/console"

// EnableControllers hands every cgroup controller of the kernel down to the
// containers' cgroups.
func EnableControllers() error {
	const top = "/sys/fs/cgroup"
	data, err := os.ReadFile(filepath.Join(top, "cgroup.controllers"))
	if err != nil {
		return fmt.Errorf("cgroup controllers: %w", err)
	}
	if err := os.MkdirAll(CgroupRoot, 0o755); err != nil {
		return fmt.Errorf("cgroup of the containers: %w", err)
	}
	for _, dir := range []string{top, CgroupRoot} {
		// All in one go: each change waits for the whole machine.
		enable := "+" + strings.Join(strings.Fields(string(data)), " +")
		if err := os.WriteFile(filepath.Join(dir, "cgroup.subtree_control"), []byte(enable), 0); err != nil {
			return fmt.Errorf("enable cgroup controllers %s in %s: %w", enable, dir, err)
		}
	}
	return nil
}
