package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/katadirect/katadirect/internal/guestimage"
	"github.com/katadirect/katadirect/pkg/runtime/qemu"
)

// bareMachine is a QEMU with as little around it as boots: the floor. Its guest is bareguest, its control client the
// dozen lines below. It must stay independent of pkg/runtime.
type bareMachine struct {
	cmd   *exec.Cmd
	dir   string
	guest *bufio.ReadWriter
	qmp   *json.Decoder
	out   *json.Encoder
	conns []net.Conn
}

const (
	memoryMiB   = 256
	bootTimeout = time.Minute
)

// bareCommandLine is for tests only: without what a production guest needs for its safety, it is the fastest.
const bareCommandLine = "quiet panic=-1 tsc=reliable no_timer_check 8250.nr_uarts=0 mitigations=off nokaslr audit=0 " +
	"random.trust_cpu=on cryptomgr.notests"

// bareArgs are QEMU's for a bare machine with its sockets in dir. Its processor is that of our machines.
func bareArgs(e *env, dir string, image guestimage.Image) []string {
	accel, cpu := "tcg,thread=multi", qemu.EmulatedCPU
	if e.accel == "kvm" {
		accel, cpu = "kvm", "host"
	}
	return []string{
		"-no-user-config", "-nodefaults", "-display", "none", "-no-reboot",
		"-machine", "q35", "-accel", accel, "-cpu", cpu, "-m", strconv.Itoa(memoryMiB), "-smp", "1",
		"-kernel", image.Kernel, "-initrd", image.Initrd, "-append", bareCommandLine,
		"-qmp", "unix:" + dir + "/qmp.sock,server=on,wait=off",
		"-device", "virtio-serial-pci", "-chardev", "socket,id=guest,path=" + dir + "/guest.sock,server=on,wait=off",
		"-device", "virtserialport,chardev=guest,name=bare.0",
	}
}

// startBare boots a bare machine and returns when its guest has answered, and how long that took. With plug it has
// a bridge for hot-plugged disks.
func startBare(ctx context.Context, e *env, plug bool) (_ *bareMachine, boot time.Duration, err error) {
	var devices []string
	if plug {
		devices = []string{"-device",
			"pci-bridge,id=br0,bus=pcie.0,addr=02,chassis_nr=1,shpc=off,io-reserve=8k,mem-reserve=2m,pref64-reserve=1m"}
	}
	return bootBare(ctx, e, e.bareImage, devices)
}

// bootBare is startBare with an image and devices of the caller's.
func bootBare(ctx context.Context, e *env, image guestimage.Image, devices []string) (_ *bareMachine, boot time.Duration, err error) {
	m := &bareMachine{}
	if m.dir, err = os.MkdirTemp(e.dir, "bare-"); err != nil {
		return nil, 0, err
	}
	defer func() {
		if err != nil {
			m.stop()
		}
	}()
	args := append(bareArgs(e, m.dir, image), devices...)
	var stderr bytes.Buffer
	// Ending ctx kills QEMU, and with that every wait for an answer ends.
	m.cmd = exec.CommandContext(ctx, "qemu-system-x86_64", args...)
	m.cmd.Stderr = &stderr
	ctx, cancel := context.WithTimeout(ctx, bootTimeout)
	defer cancel()
	start := time.Now()
	if err := m.cmd.Start(); err != nil {
		return nil, 0, err
	}
	if err := m.connect(ctx); err != nil {
		return nil, 0, fmt.Errorf("bare machine: %w: %s", err, stderr.Bytes())
	}
	if _, err := m.ask("ping"); err != nil {
		return nil, 0, err
	}
	return m, time.Since(start), nil
}

// connect opens both sockets, which QEMU makes a moment after its start.
func (m *bareMachine) connect(ctx context.Context) error {
	qmp, err := m.dial(ctx, "qmp.sock")
	if err != nil {
		return err
	}
	m.qmp, m.out = json.NewDecoder(qmp), json.NewEncoder(qmp)
	if _, err := m.command("qmp_capabilities", nil); err != nil {
		return err
	}
	guest, err := m.dial(ctx, "guest.sock")
	if err != nil {
		return err
	}
	m.guest = bufio.NewReadWriter(bufio.NewReader(guest), bufio.NewWriter(guest))
	return nil
}

func (m *bareMachine) dial(ctx context.Context, socket string) (net.Conn, error) {
	if !filepath.IsAbs(socket) {
		socket = filepath.Join(m.dir, socket)
	}
	for {
		c, err := net.Dial("unix", socket)
		if err == nil {
			m.conns = append(m.conns, c)
			// Every machine of a bench is used and done with long before.
			return c, c.SetDeadline(time.Now().Add(10 * bootTimeout))
		}
		select {
		case <-ctx.Done():
			return nil, errors.Join(err, ctx.Err())
		case <-time.After(time.Millisecond):
		}
	}
}

// command sends one QMP command and waits for its answer, passing over events.
func (m *bareMachine) command(name string, arguments any) (json.RawMessage, error) {
	request := map[string]any{"execute": name}
	if arguments != nil {
		request["arguments"] = arguments
	}
	if err := m.out.Encode(request); err != nil {
		return nil, err
	}
	answer, err := m.next(func(a qmpMessage) bool { return a.Return != nil || a.Error != nil })
	if err != nil {
		return nil, err
	}
	if answer.Error != nil {
		return nil, fmt.Errorf("QMP %s: %s", name, answer.Error)
	}
	return answer.Return, nil
}

type qmpMessage struct {
	Return, Error json.RawMessage
	Event         string
}

func (m *bareMachine) next(wanted func(qmpMessage) bool) (qmpMessage, error) {
	for {
		var a qmpMessage
		if err := m.qmp.Decode(&a); err != nil {
			return a, fmt.Errorf("QMP: %w", err)
		}
		if wanted(a) {
			return a, nil
		}
	}
}

// ask sends a request to the guest and returns the number it answers.
func (m *bareMachine) ask(request string) (int64, error) {
	if _, err := fmt.Fprintln(m.guest, request); err != nil {
		return 0, err
	}
	if err := m.guest.Flush(); err != nil {
		return 0, err
	}
	return m.answer(request)
}

// answer reads what the guest has to say to a request.
func (m *bareMachine) answer(request string) (int64, error) {
	line, err := m.guest.ReadString('\n')
	if err != nil {
		return 0, fmt.Errorf("bare guest: %s: %w", request, err)
	}
	rest, ok := strings.CutPrefix(strings.TrimSpace(line), "ok")
	if !ok {
		return 0, fmt.Errorf("bare guest: %s: %s", request, line)
	}
	if rest = strings.TrimSpace(rest); rest == "" {
		return 0, nil
	}
	return strconv.ParseInt(rest, 10, 64)
}

// plug adds a disk on the bridge.
func (m *bareMachine) plug(id, file string) error {
	_, err := m.command("blockdev-add", map[string]any{
		"node-name": "drive-" + id, "driver": "raw", "file": map[string]any{"driver": "file", "filename": file},
	})
	if err != nil {
		return err
	}
	_, err = m.command("device_add", map[string]any{
		"driver": "virtio-blk-pci", "id": id, "drive": "drive-" + id, "bus": "br0", "serial": id,
	})
	return err
}

// stop ends the machine and removes what it had.
func (m *bareMachine) stop() {
	for _, c := range m.conns {
		_ = c.Close()
	}
	if m.cmd != nil && m.cmd.Process != nil {
		_ = m.cmd.Process.Kill()
		_ = m.cmd.Wait()
	}
	_ = os.RemoveAll(m.dir)
}
