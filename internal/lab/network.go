package lab

import (
	"context"
	"net"

	"github.com/katadirect/katadirect/internal/netns"
)

// InNetwork calls do in the lab's network namespace. A socket that do makes stays there, whoever uses it afterwards;
// goroutines that it starts are outside again.
func (l *Lab) InNetwork(do func() error) error { return netns.Do(l.ns.ns["net"], do) }

// Dial connects to an address (numbers, no names) in the lab's network.
func (l *Lab) Dial(ctx context.Context, network, address string) (conn net.Conn, err error) {
	err = l.InNetwork(func() error {
		var d net.Dialer
		conn, err = d.DialContext(ctx, network, address)
		return err
	})
	return conn, err
}

// Listen listens on an address (numbers, no names) in the lab's network.
func (l *Lab) Listen(ctx context.Context, network, address string) (listener net.Listener, err error) {
	err = l.InNetwork(func() error {
		var c net.ListenConfig
		listener, err = c.Listen(ctx, network, address)
		return err
	})
	return listener, err
}
