package device

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

// Events tells waiters that the kernel has announced something about its
// devices. It carries no content: a waiter looks at sysfs again, which is the
// truth, so a message that is lost or comes twice does no harm.
type Events struct {
	socket *os.File

	mu      sync.Mutex
	changed chan struct{} // closed and replaced at every announcement
	done    chan struct{}
}

// Listen opens the kernel's uevent socket. Close ends it.
func Listen() (*Events, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_KOBJECT_UEVENT)
	if err != nil {
		return nil, fmt.Errorf("open uevent socket: %w", err)
	}
	const kernelGroup = 1
	if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: kernelGroup}); err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("bind uevent socket: %w", err)
	}
	e := &Events{
		socket:  os.NewFile(uintptr(fd), "uevent"),
		changed: make(chan struct{}),
		done:    make(chan struct{}),
	}
	go e.read()
	return e, nil
}

// Changed returns a channel that is closed at the next announcement. Take it
// before looking at sysfs, and nothing can be missed in between.
func (e *Events) Changed() <-chan struct{} {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.changed
}

// Close ends the listener and waits for it.
func (e *Events) Close() error {
	err := e.socket.Close()
	<-e.done
	return err
}

func (e *Events) read() {
	defer close(e.done)
	// The content is not looked at; what does not fit is dropped.
	var message [1]byte
	for {
		_, err := e.socket.Read(message[:])
		// With ENOBUFS the kernel says that announcements were lost: as good
		// a reason as any to look again.
		if err != nil && !errors.Is(err, unix.ENOBUFS) {
			return
		}
		e.mu.Lock()
		close(e.changed)
		e.changed = make(chan struct{})
		e.mu.Unlock()
	}
}

// Until calls look until it says true or fails, each time the kernel has
// announced something, and gives up when ctx ends.
func (e *Events) Until(ctx context.Context, look func() (bool, error)) error {
	for {
		changed := e.Changed()
		if found, err := look(); found || err != nil {
			return err
		}
		select {
		case <-changed:
		case <-ctx.Done():
			if errors.Is(ctx.Err(), context.DeadlineExceeded) {
				return ErrTimeout
			}
			return ctx.Err()
		}
	}
}
