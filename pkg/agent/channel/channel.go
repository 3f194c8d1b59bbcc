// Package channel opens the agent's way to the host: AF_VSOCK, a virtio-serial
// port, or, where the agent is tried out on a host, a unix socket. All three
// are net.Listeners, so that the server does not know which it has.
package channel

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"

	"github.com/mdlayher/vsock"

	"github.com/katadirect/katadirect/pkg/agent/device"
)

const (
	// Port is the vsock port that Kata's shims connect to.
	Port = 1024
	// SerialName is the virtio-serial port that stands in for vsock.
	SerialName = "katadirect.agent.0"
)

// ErrAddress is returned for a listening address that is none.
var ErrAddress = errors.New("not an agent address")

// Default is where to listen when nothing was said: vsock if the machine has
// it, the virtio-serial port otherwise.
func Default() string {
	if _, err := os.Stat("/dev/vsock"); err == nil {
		return fmt.Sprintf("vsock://-1:%d", Port)
	}
	return "vserial://" + SerialName
}

// Listen opens an address: vsock://CID:PORT (-1 is any CID), vserial://NAME,
// or unix://PATH. A virtio-serial port is waited for until ctx ends.
func Listen(ctx context.Context, address string, events *device.Events) (net.Listener, error) {
	scheme, rest, _ := strings.Cut(address, "://")
	switch scheme {
	case "vsock":
		return listenVsock(address, rest)
	case "vserial":
		return listenSerial(ctx, rest, events)
	case "unix":
		return net.Listen("unix", rest)
	}
	return nil, fmt.Errorf("%w: %q", ErrAddress, address)
}

func listenVsock(address, rest string) (net.Listener, error) {
	cid, port, ok := strings.Cut(rest, ":")
	number, err := strconv.ParseUint(port, 10, 32)
	if !ok || err != nil {
		return nil, fmt.Errorf("%w: %q", ErrAddress, address)
	}
	if cid == "-1" {
		const anyCID = 1<<32 - 1 // VMADDR_CID_ANY
		return vsock.ListenContextID(anyCID, uint32(number), nil)
	}
	context, err := strconv.ParseUint(cid, 10, 32)
	if err != nil {
		return nil, fmt.Errorf("%w: %q", ErrAddress, address)
	}
	return vsock.ListenContextID(uint32(context), uint32(number), nil)
}
