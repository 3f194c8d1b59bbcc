// A guest's init for the tests: it loads the boot modules in the order that
// modules.json gives, says hello on the virtio console and powers off.
package main

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"time"

	"golang.org/x/sys/unix"
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
	data, err := os.ReadFile("/etc/katadirect/modules.json")
	if err != nil {
		return err
	}
	var groups map[string][]string
	if err := json.Unmarshal(data, &groups); err != nil {
		return err
	}
	if err := load(groups["boot"]); err != nil {
		return err
	}
	console, err := openConsole()
	if err != nil {
		return err
	}
	defer console.Close()
	for name, files := range groups {
		if name == "boot" {
			continue
		}
		if err := load(files); err != nil {
			fmt.Fprintf(console, "FAILED group %s: %v\n", name, err)
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

func load(files []string) error {
	for _, file := range files {
		f, err := os.Open(file)
		if err != nil {
			return err
		}
		err = unix.FinitModule(int(f.Fd()), "", 0)
		f.Close()
		if err != nil && err != unix.EEXIST {
			return fmt.Errorf("load %s: %w", file, err)
		}
	}
	return nil
}

func openConsole() (*os.File, error) {
	for deadline := time.Now().Add(5 * time.Second); ; time.Sleep(time.Millisecond) {
		f, err := os.OpenFile("/dev/hvc0", os.O_WRONLY, 0)
		if err == nil || time.Now().After(deadline) {
			return f, err
		}
	}
}
