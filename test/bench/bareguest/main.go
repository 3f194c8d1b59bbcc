// Command bareguest is the init of the machine that the figures of our agent are held against: it does nothing
// that an agent could leave out. It loads the boot modules, answers on a virtio-serial port, and does what it is
// told to disks with one system call each. It must stay independent of the agent and of what the agent is made of.
//
// A request is a line, and so is its answer: "ok", "ok NUMBER" or "error TEXT".
//
//	ping                  nothing
//	mount DIR             wait for the next disk, mount its ext4 there
//	umount DIR
//	grow DIR BYTES        wait until its disk has that size, grow the mounted ext4 to it
//	freeze DIR            FIFREEZE
//	thaw DIR              FITHAW: the microseconds since FIFREEZE began
//	size DIR              the size of the file system mounted there, in bytes
//	net ADDRESS           bring the network card up with the IPv4 address, of a network of 256
//	send ADDRESS PORT N   send N bytes by TCP, and wait until they have been read: microseconds
//
// and those of crun.go.
package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

const portName = "bare.0"

func main() {
	fmt.Println("bareguest:", serve())
	unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF)
}

func serve() error {
	for _, m := range [][2]string{{"devtmpfs", "/dev"}, {"proc", "/proc"}, {"sysfs", "/sys"}} {
		if err := unix.Mount(m[0], m[1], m[0], 0, ""); err != nil && !errors.Is(err, unix.EBUSY) {
			return fmt.Errorf("mount %s: %w", m[1], err)
		}
	}
	events, err := listenForDisks()
	if err != nil {
		return err
	}
	if err := loadModules("boot"); err != nil {
		return err
	}
	port, err := openPort(portName)
	if err != nil {
		return err
	}
	g := guest{events: events, device: map[string]string{}}
	lines := bufio.NewScanner(port)
	for lines.Scan() {
		number, err := g.do(strings.Fields(lines.Text()))
		answer := "ok"
		switch {
		case err != nil:
			answer = "error " + err.Error()
		case number != 0:
			answer = fmt.Sprint("ok ", number)
		}
		if _, err := fmt.Fprintln(port, answer); err != nil {
			return err
		}
	}
	return lines.Err()
}

func loadModules(group string) error {
	data, err := os.ReadFile("/etc/katadirect/modules.json")
	if err != nil {
		return err
	}
	var groups map[string][]string
	if err := json.Unmarshal(data, &groups); err != nil {
		return err
	}
	for _, file := range groups[group] {
		f, err := os.Open(file)
		if err != nil {
			return err
		}
		err = unix.FinitModule(int(f.Fd()), "", 0)
		_ = f.Close()
		if err != nil && !errors.Is(err, unix.EEXIST) { // another group had it
			return fmt.Errorf("load %s: %w", file, err)
		}
	}
	return nil
}

// openPort finds a port by its name. It is there a moment after the driver is.
func openPort(wanted string) (*os.File, error) {
	for deadline := time.Now().Add(5 * time.Second); time.Now().Before(deadline); time.Sleep(time.Millisecond) {
		names, err := filepath.Glob("/sys/class/virtio-ports/*/name")
		if err != nil {
			return nil, err
		}
		for _, file := range names {
			if name, _ := os.ReadFile(file); string(bytes.TrimSpace(name)) == wanted {
				// Blocking, so that a read waits in the kernel for the host.
				fd, err := unix.Open("/dev/"+filepath.Base(filepath.Dir(file)), unix.O_RDWR, 0)
				return os.NewFile(uintptr(fd), wanted), err
			}
		}
	}
	return nil, errors.New("no port " + wanted)
}

// listenForDisks opens the kernel's own channel of device events.
func listenForDisks() (int, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_DGRAM, unix.NETLINK_KOBJECT_UEVENT)
	if err != nil {
		return 0, err
	}
	return fd, unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: 1})
}

type guest struct {
	events int
	device map[string]string // mounted on a folder
	frozen time.Time
}

func (g *guest) do(words []string) (int64, error) {
	if len(words) == 0 {
		return 0, errors.New("no request")
	}
	switch {
	case words[0] == "ping":
		return 0, nil
	case words[0] == "mount" && len(words) == 2:
		return 0, g.mount(words[1])
	case words[0] == "containers" && len(words) == 2:
		return 0, containers(words[1])
	case words[0] == "bundle" && len(words) == 3:
		return 0, bundle(words[1], words[2])
	case words[0] == "crun" && len(words) > 1:
		return 0, crun(words[1:])
	case len(words) == 2 && slices.Contains(outputs, words[0]):
		mib, err := strconv.ParseInt(words[1], 10, 64)
		if err != nil {
			return 0, err
		}
		return output(words[0], mib)
	case words[0] == "umount" && len(words) == 2:
		return 0, unix.Unmount(words[1], 0)
	case words[0] == "freeze" && len(words) == 2:
		g.frozen = time.Now()
		return 0, freeze(words[1], fiFreeze)
	case words[0] == "thaw" && len(words) == 2:
		err := freeze(words[1], fiThaw)
		return max(1, time.Since(g.frozen).Microseconds()), err
	case words[0] == "grow" && len(words) == 3:
		size, err := strconv.ParseInt(words[2], 10, 64)
		if err != nil {
			return 0, err
		}
		return 0, g.grow(words[1], size)
	case words[0] == "net" && len(words) == 2:
		return 0, bringUp(words[1])
	case words[0] == "send" && len(words) == 4:
		return send(words[1], words[2], words[3])
	case words[0] == "size" && len(words) == 2:
		var s unix.Statfs_t
		err := unix.Statfs(words[1], &s)
		return int64(s.Blocks) * s.Bsize, err
	}
	return 0, fmt.Errorf("request %q", words)
}

func (g *guest) mount(dir string) error {
	device, err := g.nextDisk()
	if err != nil {
		return err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	g.device[dir] = device
	return unix.Mount("/dev/"+device, dir, "ext4", 0, "")
}

// nextDisk waits for the event of a new disk and returns its name.
func (g *guest) nextDisk() (string, error) {
	buf := make([]byte, 64<<10)
	for {
		n, err := unix.Read(g.events, buf)
		if err != nil {
			return "", err
		}
		event := string(buf[:n])
		if !strings.HasPrefix(event, "add@") || !strings.Contains(event, "\x00DEVTYPE=disk\x00") {
			continue
		}
		if _, rest, ok := strings.Cut(event, "\x00DEVNAME="); ok {
			name, _, _ := strings.Cut(rest, "\x00")
			return name, nil
		}
	}
}

// ext4ResizeFS is EXT4_IOC_RESIZE_FS of fs/ext4/ext4.h; its argument is the new number of blocks.
const ext4ResizeFS = 0x40086610

func (g *guest) grow(dir string, sizeBytes int64) error {
	sysfs := "/sys/class/block/" + g.device[dir] + "/size"
	for {
		data, err := os.ReadFile(sysfs)
		if err != nil {
			return err
		}
		sectors, err := strconv.ParseInt(string(bytes.TrimSpace(data)), 10, 64)
		if err != nil {
			return err
		}
		if sectors*512 >= sizeBytes {
			break
		}
		time.Sleep(100 * time.Microsecond)
	}
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer f.Close()
	var s unix.Statfs_t
	if err := unix.Statfs(dir, &s); err != nil {
		return err
	}
	blocks := uint64(sizeBytes / s.Bsize)
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, f.Fd(), ext4ResizeFS, uintptr(unsafe.Pointer(&blocks)))
	if errno != 0 {
		return errno
	}
	return nil
}
