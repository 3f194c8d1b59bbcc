// Command testguest is the init of the small guests in which this package's tests look at their machine from the
// inside. It answers requests, one JSON object per line, on the port on which the real agent would speak ttrpc, and
// like the real one it reopens the port after the host has hung up. It must stay independent of the agent.
package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Request is one question to the guest.
type Request struct {
	// Do is what to do: ping, disks, read, write, fill, size, say, flood, cmdline, poweroff, reboot, panic.
	Do string
	// Serial of the disk that read, write, fill and size are about.
	Serial string `json:",omitempty"`
	// Offset and Data of read (the length of Data counts) and write, in bytes; multiples of 512.
	Offset int64  `json:",omitempty"`
	Data   []byte `json:",omitempty"`
	// Text for say.
	Text string `json:",omitempty"`
}

// Answer is what the guest says.
type Answer struct {
	Err   string `json:",omitempty"`
	Data  []byte `json:",omitempty"`
	Size  int64  `json:",omitempty"`
	Text  string `json:",omitempty"`
	Disks []Disk `json:",omitempty"`
}

// Disk is a block device as sysfs shows it.
type Disk struct {
	Name     string // vda
	Serial   string
	Path     string // what lies between the PCI root and the virtio device: 0000:00:02.0/0000:01:01.0
	Size     int64
	ReadOnly bool
}

func main() {
	if err := boot(); err != nil {
		fmt.Println("testguest:", err)
	}
	fmt.Println("testguest: up")
	for {
		if err := serve(); err != nil {
			fmt.Println("testguest:", err)
			time.Sleep(10 * time.Millisecond)
		}
	}
}

func boot() error {
	for _, m := range [][2]string{{"proc", "/proc"}, {"sysfs", "/sys"}, {"devtmpfs", "/dev"}} {
		if err := os.MkdirAll(m[1], 0o755); err != nil {
			return err
		}
		if err := unix.Mount(m[0], m[1], m[0], 0, ""); err != nil && !errors.Is(err, unix.EBUSY) {
			return err
		}
	}
	list, err := os.ReadFile("/etc/katadirect/modules.json")
	if err != nil {
		return err
	}
	var modules map[string][]string
	if err := json.Unmarshal(list, &modules); err != nil {
		return err
	}
	if err := loadAll(modules["boot"]); err != nil {
		return err
	}
	console, err := openConsole()
	if err != nil {
		return err
	}
	if err := errors.Join(unix.Dup2(int(console.Fd()), 1), unix.Dup2(int(console.Fd()), 2)); err != nil {
		return err
	}
	if wantSCSI() {
		return loadAll(modules["scsi"])
	}
	return nil
}

// openConsole waits for the console: its driver learns of its ports only after it was loaded.
func openConsole() (*os.File, error) {
	for range 2000 {
		console, err := os.OpenFile("/dev/hvc0", os.O_WRONLY, 0)
		if err == nil {
			return console, nil
		}
		time.Sleep(time.Millisecond)
	}
	return nil, errors.New("no console")
}

func loadAll(paths []string) error {
	for _, path := range paths {
		if err := load(path); err != nil {
			return err
		}
	}
	return nil
}

func wantSCSI() bool {
	cmdline, _ := os.ReadFile("/proc/cmdline")
	return strings.Contains(string(cmdline), "testguest.scsi")
}

func load(path string) error {
	file, err := os.Open(path)
	if err != nil {
		return err
	}
	defer file.Close()
	if err := unix.FinitModule(int(file.Fd()), "", 0); err != nil && !errors.Is(err, unix.EEXIST) {
		return fmt.Errorf("module %s: %w", path, err)
	}
	return nil
}

// port finds the agent's port; there is no udev that would have made a link.
func port() (string, error) {
	names, _ := filepath.Glob("/sys/class/virtio-ports/*/name")
	for _, name := range names {
		if text, _ := os.ReadFile(name); strings.TrimSpace(string(text)) == "katadirect.agent.0" {
			return "/dev/" + filepath.Base(filepath.Dir(name)), nil
		}
	}
	return "", errors.New("no agent port")
}

// serve opens the port, answers until the host hangs up, and closes it again.
func serve() error {
	path, err := port()
	if err != nil {
		return err
	}
	fd, err := unix.Open(path, unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return err
	}
	conn := os.NewFile(uintptr(fd), path)
	if err := waitForHost(fd); err != nil {
		return errors.Join(err, conn.Close())
	}
	// A writer waits for the host to come back, so a reader of its own must notice the hang-up, and close the port
	// under the writer: the host waits for that.
	requests := make(chan Request)
	go func() {
		defer close(requests)
		defer conn.Close()
		in := json.NewDecoder(bufio.NewReader(conn))
		for {
			var r Request
			if err := in.Decode(&r); err != nil {
				return
			}
			requests <- r
		}
	}()
	out := json.NewEncoder(conn)
	for r := range requests {
		_ = out.Encode(do(r)) // who has hung up hears no answer
	}
	return nil
}

// waitForHost returns once a host is connected: until then the port reads as hung up.
func waitForHost(fd int) error {
	for {
		poll := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLOUT}}
		_, err := unix.Poll(poll, -1)
		if err != nil && !errors.Is(err, unix.EINTR) {
			return err
		}
		if err == nil && poll[0].Revents&unix.POLLHUP == 0 {
			return nil
		}
		time.Sleep(time.Millisecond)
	}
}

func do(r Request) Answer {
	switch r.Do {
	case "ping":
		return Answer{}
	case "disks":
		return Answer{Disks: disks()}
	case "cmdline":
		text, err := os.ReadFile("/proc/cmdline")
		return Answer{Text: string(text), Err: message(err)}
	case "say":
		fmt.Println(r.Text)
	case "flood":
		go flood()
	case "poweroff":
		return Answer{Err: message(unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF))}
	case "reboot":
		return Answer{Err: message(unix.Reboot(unix.LINUX_REBOOT_CMD_RESTART))}
	case "panic":
		return Answer{Err: message(os.WriteFile("/proc/sysrq-trigger", []byte("c"), 0))}
	case "scan":
		return Answer{Err: message(scanSCSI(r.Text))}
	default:
		return diskIO(r)
	}
	return Answer{}
}

func message(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

// flood is a hostile guest that writes to its console as long as it lives.
func flood() {
	line := []byte(strings.Repeat("A", 100) + "\n" + "\x1b[31m" + strings.Repeat("B", 8000))
	for {
		_, _ = os.Stdout.Write(line)
	}
}

func disks() []Disk {
	names, _ := filepath.Glob("/sys/block/[vs]d*")
	var found []Disk
	for _, dir := range names {
		d := Disk{Name: filepath.Base(dir), Serial: sysfs(dir, "serial"), ReadOnly: sysfs(dir, "ro") == "1"}
		sectors, _ := strconv.ParseInt(sysfs(dir, "size"), 10, 64)
		d.Size = sectors * 512
		if link, err := os.Readlink(dir); err == nil {
			_, path, _ := strings.Cut(link, "/pci0000:00/")
			d.Path, _, _ = strings.Cut(path, "/block/")
			d.Path, _, _ = strings.Cut(d.Path, "/virtio")
		}
		if d.Serial == "" { // a SCSI disk has it in a page of its own, after a header of four bytes
			if page, _ := os.ReadFile(dir + "/device/vpd_pg80"); len(page) > 4 {
				d.Serial = string(page[4:])
			}
			if link, err := os.Readlink(dir + "/device"); err == nil {
				d.Path = filepath.Base(link) // host:channel:id:lun
			}
		}
		found = append(found, d)
	}
	return found
}

func sysfs(dir, name string) string {
	text, _ := os.ReadFile(filepath.Join(dir, name))
	return strings.TrimSpace(string(text))
}

func scanSCSI(address string) error {
	hosts, _ := filepath.Glob("/sys/class/scsi_host/*/scan")
	if len(hosts) == 0 {
		return errors.New("no SCSI host")
	}
	id, lun, _ := strings.Cut(address, ":")
	return os.WriteFile(hosts[0], []byte("0 "+id+" "+lun), 0)
}

func diskIO(r Request) Answer {
	for _, d := range disks() {
		if d.Serial != r.Serial {
			continue
		}
		size, data, err := onDisk("/dev/"+d.Name, r)
		return Answer{Size: size, Data: data, Err: message(err)}
	}
	return Answer{Err: "no disk " + r.Serial}
}

func onDisk(path string, r Request) (int64, []byte, error) {
	mode := os.O_RDONLY
	if r.Do == "write" || r.Do == "fill" {
		mode = os.O_RDWR
	}
	file, err := os.OpenFile(path, mode|unix.O_SYNC, 0)
	// The kernel makes a disk's node a moment before the disk can be opened.
	for patience := 100; patience > 0 && errors.Is(err, unix.ENXIO); patience-- {
		time.Sleep(50 * time.Millisecond)
		file, err = os.OpenFile(path, mode|unix.O_SYNC, 0)
	}
	if err != nil {
		return 0, nil, err
	}
	defer file.Close()
	switch r.Do {
	case "size":
		size, err := file.Seek(0, io.SeekEnd)
		return size, nil, err
	case "read":
		data := make([]byte, len(r.Data))
		_, err := file.ReadAt(data, r.Offset)
		return 0, data, err
	case "write":
		_, err := file.WriteAt(r.Data, r.Offset)
		return int64(len(r.Data)), nil, err
	case "fill":
		written, err := fill(file)
		return written, nil, err
	}
	return 0, nil, errors.New("unknown request " + r.Do)
}

// fill writes the disk full with ones.
func fill(file *os.File) (int64, error) {
	chunk := make([]byte, 1<<20)
	for i := range chunk {
		chunk[i] = 0xff
	}
	var written int64
	for {
		n, err := file.Write(chunk)
		written += int64(n)
		if errors.Is(err, unix.ENOSPC) { // the end of the device
			return written, nil
		}
		if err != nil {
			return written, err
		}
	}
}
