package qemu

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"time"
	"unsafe"

	"github.com/mdlayher/vsock"
	"golang.org/x/sys/unix"
)

const vhostVsock = "/dev/vhost-vsock"

// Guests may have any context id from 3 to 2³²−2: the lower ones and the highest mean host, hypervisor and anybody.
const (
	firstCID = 3
	cidCount = 1<<32 - 1 - firstCID
)

// vhostVsockSetGuestCID is VHOST_VSOCK_SET_GUEST_CID of linux/vhost.h, _IOW(0xAF, 0x60, __u64).
const vhostVsockSetGuestCID = 0x4008af60

// claimVsock opens device and claims a context id that no other guest of the host has. The claim lasts as long as
// the descriptor, which QEMU takes over. The error is os.ErrNotExist where the host has no vhost-vsock.
func claimVsock(device string) (*os.File, uint32, error) {
	file, err := os.OpenFile(device, os.O_RDWR, 0)
	if errors.Is(err, unix.ENODEV) || errors.Is(err, unix.ENXIO) {
		err = fmt.Errorf("%w: %w", os.ErrNotExist, err) // a node without a driver
	}
	if err != nil {
		return nil, 0, fmt.Errorf("vsock: %w", err)
	}
	const attempts = 64 // of four thousand million; a second one is hardly ever needed
	for range attempts {
		cid := firstCID + rand.Uint64N(cidCount)
		_, _, errno := unix.Syscall(unix.SYS_IOCTL, file.Fd(), vhostVsockSetGuestCID, uintptr(unsafe.Pointer(&cid)))
		if errno == 0 {
			return file, uint32(cid), nil
		}
		if errno != unix.EADDRINUSE {
			return nil, 0, errors.Join(fmt.Errorf("vsock: claim context id %d: %w", cid, errno), file.Close())
		}
	}
	return nil, 0, errors.Join(errors.New("vsock: no free context id found"), file.Close())
}

// dialVsock connects to the agent, trying again until it listens.
func dialVsock(ctx context.Context, cid uint32) (net.Conn, error) {
	const pause = 10 * time.Millisecond
	for {
		conn, err := vsock.DialContext(ctx, cid, agentVsock, nil)
		if err == nil {
			return conn, nil
		}
		select {
		case <-ctx.Done():
			return nil, errors.Join(context.Cause(ctx), err)
		case <-time.After(pause):
		}
	}
}
