package management

import (
	"context"
	"net"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// hangUpLook is the time between looks at whether the other end is still there.
const hangUpLook = 500 * time.Millisecond

// awaitHangUp returns when the other end of the connection is closed, also while there is something of it that nobody
// has read yet: who reads may be waiting for somebody who does not.
func awaitHangUp(ctx context.Context, conn net.Conn) {
	if p, ok := conn.(*placed); ok {
		conn = p.Conn
	}
	raw, ok := conn.(syscall.Conn)
	if !ok {
		<-ctx.Done()
		return
	}
	control, err := raw.SyscallConn()
	for err == nil {
		select {
		case <-ctx.Done():
			return
		case <-time.After(hangUpLook):
		}
		look := []unix.PollFd{{}}
		err = control.Control(func(fd uintptr) {
			look[0].Fd = int32(fd)
			_, _ = unix.Poll(look, 0)
		})
		if look[0].Revents&(unix.POLLHUP|unix.POLLERR) != 0 {
			return
		}
	}
}
