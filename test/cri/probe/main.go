// Command probe does in a container of the tests what Debian's busybox has no program for.
//
//	probe inotify DIR…   says "watching", then prints the names that the kernel reports for the folders
//	probe listen PATH    answers "hello" to whoever connects to the unix socket that it makes
//	probe connect PATH   prints the answer
//	probe hold PATH      locks the file for ever, and says "locked" when it has it
//	probe lock PATH      tries to, and says "locked" or "busy"
//	probe echo ADDRESS…  sends back what comes over TCP, and says "ready"
package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

func main() {
	if err := run(os.Args[1], os.Args[2:]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(what string, args []string) error {
	switch what {
	case "inotify":
		return watch(args)
	case "listen":
		return listen(args[0])
	case "connect":
		return connect(args[0])
	case "hold", "lock":
		return lock(args[0], what == "hold")
	case "echo":
		return echo(args)
	}
	return fmt.Errorf("%s?", what)
}

func watch(dirs []string) error {
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC)
	if err != nil {
		return err
	}
	for _, dir := range dirs {
		if _, err := unix.InotifyAddWatch(fd, dir, unix.IN_MOVED_TO|unix.IN_CREATE|unix.IN_DELETE); err != nil {
			return fmt.Errorf("%s: %w", dir, err)
		}
	}
	fmt.Println("watching")
	buffer := make([]byte, 64<<10)
	for {
		n, err := unix.Read(fd, buffer)
		if err != nil {
			return err
		}
		for offset := 0; offset < n; {
			event := (*unix.InotifyEvent)(unsafe.Pointer(&buffer[offset]))
			name := buffer[offset+unix.SizeofInotifyEvent:][:event.Len]
			fmt.Println(string(bytes.TrimRight(name, "\x00")))
			offset += unix.SizeofInotifyEvent + int(event.Len)
		}
	}
}

func listen(path string) error {
	l, err := net.Listen("unix", path)
	if err != nil {
		return err
	}
	for {
		conn, err := l.Accept()
		if err != nil {
			return err
		}
		fmt.Fprintln(conn, "hello")
		conn.Close()
	}
}

func connect(path string) error {
	conn, err := net.Dial("unix", path)
	if err != nil {
		return err
	}
	defer conn.Close()
	_, err = io.Copy(os.Stdout, conn)
	return err
}

func lock(path string, hold bool) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return err
	}
	switch err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); {
	case errors.Is(err, unix.EWOULDBLOCK):
		fmt.Println("busy")
		return nil
	case err != nil:
		return err
	}
	fmt.Println("locked")
	if hold {
		return unix.Pause()
	}
	return nil
}

func echo(addresses []string) error {
	failed := make(chan error)
	for _, address := range addresses {
		l, err := net.Listen("tcp", address)
		if err != nil {
			return err
		}
		go func() {
			for {
				conn, err := l.Accept()
				if err != nil {
					failed <- err
					return
				}
				go func() {
					defer conn.Close()
					_, _ = io.Copy(conn, conn)
				}()
			}
		}()
	}
	fmt.Println("ready")
	return <-failed
}
