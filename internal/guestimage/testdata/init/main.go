// A guest's init for the tests: it loads the image's modules as the agent does,
// runs its tools, says hello on the virtio console and powers off.
package main

import (
	"fmt"
	"os"
	"os/exec"
	"time"

	"golang.org/x/sys/unix"

	"github.com/katadirect/katadirect/pkg/agent/module"
)

func main() {
	if err := hello(); err != nil {
		fmt.Println("init:", err)
	}
	unix.Sync()
	unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF)
}

func hello() error {
	for _, m := range [][2]string{{"devtmpfs", "/dev"}, {"proc", "/proc"}, {"sysfs", "/sys"}} {
		if err := unix.Mount(m[0], m[1], m[0], 0, ""); err != nil {
			return fmt.Errorf("mount %s: %w", m[1], err)
		}
	}
	modules, err := module.Open(module.ListPath)
	if err != nil {
		return err
	}
	if err := modules.Load("boot"); err != nil {
		return err
	}
	console, err := openConsole()
	if err != nil {
		return err
	}
	defer console.Close()
	for _, group := range []string{"network", "share", "vsock", "entropy", "scsi", "xfs", "btrfs"} {
		begin := time.Now()
		if err := modules.Load(group); err != nil {
			fmt.Fprintf(console, "FAILED %v\n", err)
		}
		fmt.Fprintf(console, "loaded %s in %d ms\n", group, time.Since(begin).Milliseconds())
	}
	// What a group is for is there when it is loaded; an unknown group would
	// have been taken for a built-in one.
	for _, there := range []string{
		"/sys/module/virtio_net", "/sys/module/overlay", "/sys/module/vmw_vsock_virtio_transport",
		"/sys/module/virtio_scsi", "/sys/module/xfs", "/sys/module/btrfs", "/sys/module/virtio_rng",
	} {
		if _, err := os.Stat(there); err != nil {
			fmt.Fprintf(console, "FAILED %v\n", err)
		}
	}
	for _, tool := range [][]string{
		{"/usr/bin/crun", "--version"}, {"/sbin/mkfs.ext4", "-V"}, {"/sbin/e2fsck", "-V"},
		{"/sbin/mkfs.xfs", "-V"}, {"/sbin/xfs_repair", "-V"}, {"/sbin/mkfs.btrfs", "--version"}, {"/bin/sh", "-c", "true"},
	} {
		if out, err := exec.Command(tool[0], tool[1:]...).CombinedOutput(); err != nil {
			fmt.Fprintf(console, "FAILED %s: %v: %s\n", tool[0], err, out)
		}
	}
	var uts unix.Utsname
	if err := unix.Uname(&uts); err != nil {
		return err
	}
	fmt.Fprintf(console, "HELLO %s\n", unix.ByteSliceToString(uts.Release[:]))
	time.Sleep(100 * time.Millisecond) // the console has no flush, and power-off drops what is in it
	return nil
}

func openConsole() (*os.File, error) {
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(time.Millisecond) {
		f, err := os.OpenFile("/dev/hvc0", os.O_WRONLY, 0)
		if err == nil || time.Now().After(deadline) {
			return f, err
		}
	}
}
