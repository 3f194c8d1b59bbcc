// Command guest is the first process of a machine that does to the shim what a guest under somebody else's control
// could do. It takes the agent's place in the image, opens the agent's own channel, and speaks its protocol as far as
// the evil at hand asks for.
//
// "hostile=NAME" on the kernel's command line names an evil done before the pod is ready; without it the guest makes
// every pod and container happily, and runs nothing. Then the first argument of an exec, or of a container's process,
// names an evil done by that process.
package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/katadirect/katadirect/pkg/agent/boot"
	"github.com/katadirect/katadirect/pkg/agent/channel"
	"github.com/katadirect/katadirect/pkg/agent/device"
	"github.com/katadirect/katadirect/pkg/agent/module"
)

func main() {
	fmt.Println("guest:", run())
	select {}
}

func run() error {
	evil := evilOf("/proc/cmdline")
	if err := errors.Join(boot.Settle(), boot.MountEarly()); err != nil {
		return err
	}
	if evil == "" {
		evil = evilOf("/proc/cmdline") // /proc was not mounted before
	}
	modules, err := module.Open(module.ListPath)
	if err != nil {
		return err
	}
	if err := modules.Load(module.Boot); err != nil {
		return err
	}
	switch evil {
	case "panic":
		return os.WriteFile("/proc/sysrq-trigger", []byte("c"), 0)
	case "power-off":
		return unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF)
	}
	events, err := device.Listen()
	if err != nil {
		return err
	}
	listener, err := channel.Listen(context.Background(), channel.Default(), events)
	if err != nil {
		return err
	}
	return serve(evil, listener)
}

// evilOf reads what the host asked for.
func evilOf(cmdline string) string {
	data, _ := os.ReadFile(cmdline)
	for word := range strings.FieldsSeq(string(data)) {
		if evil, ok := strings.CutPrefix(word, "hostile="); ok {
			return evil
		}
	}
	return ""
}

func serve(evil string, listener net.Listener) error {
	switch evil {
	case "garbage", "frame", "hang-up", "console":
		for {
			conn, err := listener.Accept()
			if err != nil {
				return err
			}
			answerWith(evil, conn)
		}
	default:
		return serveProtocol(evil, listener)
	}
}

// answerWith does to one connection what the protocol has no word for.
func answerWith(evil string, conn net.Conn) {
	defer conn.Close()
	request := make([]byte, 4<<10)
	_, _ = conn.Read(request)
	switch evil {
	case "garbage":
		endless(conn, []byte("\x00\x00\x00\x20\x00\x00\x00\x01\x02\x00 this is no answer to anything \xff\xfe\x80"))
	case "frame":
		endless(conn, hugeFrame())
	case "hang-up":
		return
	case "console":
		go flood("/dev/hvc0")
		time.Sleep(time.Hour)
	}
}

// hugeFrame is ttrpc's header for an answer of 4 GiB less one byte on stream 1, and the beginning of that.
func hugeFrame() []byte {
	return append([]byte{0xff, 0xff, 0xff, 0xff, 0, 0, 0, 1, 2, 0}, make([]byte, 64<<10)...)
}

func endless(conn net.Conn, what []byte) {
	for {
		if _, err := conn.Write(what); err != nil {
			return
		}
	}
}

// flood writes to the console for ever: what could steer a terminal, forge a line of a log, and never end.
func flood(path string) {
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return
	}
	text := []byte(nasty + "\xff" + strings.Repeat("x", 60<<10))
	for {
		if _, err := f.Write(text); err != nil {
			return
		}
	}
}
