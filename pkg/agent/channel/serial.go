package channel

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/katadirect/katadirect/pkg/agent/device"
)

// serialListener makes a listener of a virtio-serial port, which is one pipe:
// it accepts the host's connection once the host has opened its end, and
// accepts the next one after that has been closed. The port is closed and
// opened anew in between, by which the host learns that its hang-up was
// noticed, and the kernel drops what was left in the pipe.
type serialListener struct {
	node string

	mu     sync.Mutex
	idle   *sync.Cond // signalled when conn becomes nil, or closed is set
	conn   *serialConn
	closed bool
}

// listenSerial waits until ctx ends for the port with that name.
func listenSerial(ctx context.Context, name string, events *device.Events) (net.Listener, error) {
	var node string
	err := events.Until(ctx, func() (found bool, err error) {
		node, found = findPort(name)
		return found, nil
	})
	if err != nil {
		return nil, fmt.Errorf("virtio-serial port %q: %w", name, err)
	}
	l := &serialListener{node: node}
	l.idle = sync.NewCond(&l.mu)
	return l, nil
}

// findPort looks for a port by the name that the host gave it: without udev
// there are no links under /dev/virtio-ports.
func findPort(name string) (node string, found bool) {
	names, _ := filepath.Glob("/sys/class/virtio-ports/*/name")
	for _, file := range names {
		data, err := os.ReadFile(file)
		if err != nil || strings.TrimSpace(string(data)) != name {
			continue
		}
		node := filepath.Join("/dev", filepath.Base(filepath.Dir(file)))
		_, err = os.Stat(node)
		return node, err == nil
	}
	return "", false
}

// Accept opens the port, and waits until the host has opened its end.
func (l *serialListener) Accept() (net.Conn, error) {
	l.mu.Lock()
	for l.conn != nil && !l.closed {
		l.idle.Wait()
	}
	if l.closed {
		l.mu.Unlock()
		return nil, net.ErrClosed
	}
	conn, err := l.open()
	l.mu.Unlock()
	if err != nil {
		return nil, err
	}
	if err := conn.waitForHost(); err != nil {
		conn.Close()
		return nil, err
	}
	return conn, nil
}

// open opens the port. The caller holds l.mu.
func (l *serialListener) open() (*serialConn, error) {
	fd, err := unix.Open(l.node, unix.O_RDWR|unix.O_NONBLOCK|unix.O_CLOEXEC|unix.O_NOCTTY, 0)
	if err != nil {
		return nil, fmt.Errorf("open virtio-serial port %s: %w", l.node, err)
	}
	l.conn = &serialConn{File: os.NewFile(uintptr(fd), l.node), listener: l}
	return l.conn, nil
}

// Close ends Accept, and the connection that is open.
func (l *serialListener) Close() error {
	l.mu.Lock()
	l.closed = true
	conn := l.conn
	l.idle.Broadcast()
	l.mu.Unlock()
	if conn != nil {
		return conn.Close()
	}
	return nil
}

// Addr names the port.
func (l *serialListener) Addr() net.Addr { return serialAddr(l.node) }

type serialAddr string

func (serialAddr) Network() string  { return "vserial" }
func (a serialAddr) String() string { return string(a) }

// serialConn is an open port.
type serialConn struct {
	*os.File
	listener *serialListener
	once     sync.Once
	err      error
}

// waitForHost returns once the host's end is open. The kernel wakes pollers
// when it is, so there is nothing to do but look.
func (c *serialConn) waitForHost() error {
	raw, err := c.SyscallConn()
	if err != nil {
		return err
	}
	var pollErr error
	err = raw.Read(func(fd uintptr) bool {
		fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
		_, pollErr = unix.Poll(fds, 0)
		if errors.Is(pollErr, unix.EINTR) {
			return false
		}
		return pollErr != nil || fds[0].Revents&unix.POLLHUP == 0
	})
	return errors.Join(err, pollErr)
}

// Close closes the port and lets the listener open it again.
func (c *serialConn) Close() error {
	c.once.Do(func() {
		c.err = c.File.Close()
		l := c.listener
		l.mu.Lock()
		if l.conn == c {
			l.conn = nil
		}
		l.idle.Broadcast()
		l.mu.Unlock()
	})
	return c.err
}

// LocalAddr and RemoteAddr name the port.
func (c *serialConn) LocalAddr() net.Addr  { return c.listener.Addr() }
func (c *serialConn) RemoteAddr() net.Addr { return c.listener.Addr() }
