package shimv2

import (
	"context"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/containerd/ttrpc"
)

// front is where containerd connects: the server, its socket, and who is connected.
type front struct {
	server   *ttrpc.Server
	listener net.Listener
	clients  *clients

	served chan struct{} // closed when nobody is let in any more
	err    error         // why; valid when served is closed
}

func newFront(l net.Listener, s Service, c *clients) (*front, error) {
	f := &front{listener: l, served: make(chan struct{}), clients: c}
	var err error
	f.server, err = ttrpc.NewServer(
		ttrpc.WithServerHandshaker(f.clients),
		ttrpc.WithUnaryServerInterceptor(s.Interceptor()))
	if err != nil {
		return nil, err
	}
	s.Register(f.server)
	go func() {
		defer close(f.served)
		if err := f.server.Serve(context.Background(), l); err != nil {
			f.err = fmt.Errorf("serve containerd: %w", err)
		}
	}()
	return f, nil
}

// close lets nobody in any more, and waits until all who are in have gone: containerd goes when it has the answer to
// its Shutdown. ttrpc's own shutdown can cut off an answer that is on its way. Those who stay after the limit, waiting
// for something that will not come, are cut off.
func (f *front) close(limit time.Duration) {
	f.listener.Close()
	<-f.served
	gone := make(chan struct{})
	go func() {
		f.clients.open.Wait()
		close(gone)
	}()
	select {
	case <-gone:
	case <-time.After(limit):
	}
	f.server.Close()
}

// clients lets in whoever is the user that the shim runs as, and counts them.
type clients struct {
	open  sync.WaitGroup
	count atomic.Int64  // of those that are in
	met   chan struct{} // closed when the first has been let in
	first sync.Once
}

func newClients() *clients { return &clients{met: make(chan struct{})} }

// any tells whether somebody is in.
func (c *clients) any() bool { return c.count.Load() > 0 }

var sameUser = ttrpc.UnixSocketRequireSameUser()

// Handshake implements ttrpc.Handshaker.
func (c *clients) Handshake(ctx context.Context, conn net.Conn) (net.Conn, any, error) {
	approved, credentials, err := sameUser.Handshake(ctx, conn)
	if err != nil {
		return nil, nil, err
	}
	c.open.Add(1)
	c.count.Add(1)
	c.first.Do(func() { close(c.met) })
	return &client{approved, sync.OnceFunc(c.left)}, credentials, nil
}

func (c *clients) left() {
	c.count.Add(-1)
	c.open.Done()
}

// client is one connection.
type client struct {
	net.Conn
	gone func()
}

// Close closes the connection. The server calls it also when the other side has.
func (c *client) Close() error {
	defer c.gone()
	return c.Conn.Close()
}
