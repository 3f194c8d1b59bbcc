// Package portforward lets whoever is in the pod's network namespace reach the servers in its machine on localhost, as
// kubectl port-forward does: containerd enters the namespace and dials 127.0.0.1 there, where no server of a machine
// listens. A rule of nftables leads such connections to one listener, which learns the port they were meant for and
// passes them on to the guest.
//
// pkg/runtime/sandbox calls Start once the agent answers. How the guest is reached is the caller's: Dial.
package portforward

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/katadirect/katadirect/internal/netns"
)

// most is how many connections there may be at a time; more wait.
const most = 64

// acceptPause is how long it takes to try again when a connection could not be taken.
const acceptPause = 200 * time.Millisecond

// Conn is a connection to a server in the guest.
type Conn interface {
	io.ReadWriteCloser
	CloseWrite() error
}

// Dial connects to a TCP port of the guest's localhost. The connection ends with ctx.
type Dial func(ctx context.Context, port uint16) (Conn, error)

// Forwarder passes connections on until Close.
type Forwarder struct {
	listener *net.TCPListener
	rule     *rule
	dial     Dial
	log      *slog.Logger

	end     context.CancelFunc
	closing sync.Once
	places  chan struct{}
	all     sync.WaitGroup
}

// Start passes on what is dialed on the loopback of the namespace. Nothing of it outlives this process: the rule goes
// with the socket that made it.
func Start(namespace *os.File, dial Dial, log *slog.Logger) (*Forwarder, error) {
	f := &Forwarder{dial: dial, log: log, places: make(chan struct{}, most)}
	err := netns.Do(namespace, func() (err error) {
		if f.listener, err = net.ListenTCP("tcp4", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)}); err != nil {
			return err
		}
		f.rule, err = redirectLoopback(uint16(f.listener.Addr().(*net.TCPAddr).Port))
		return err
	})
	if err != nil {
		if f.listener != nil {
			err = errors.Join(err, f.listener.Close())
		}
		return nil, fmt.Errorf("forward the pod's localhost: %w", err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	f.end = cancel
	f.all.Go(func() { f.serve(ctx) })
	return f, nil
}

// Close ends all of it. It may be called again, and of nil.
func (f *Forwarder) Close() (err error) {
	if f == nil {
		return nil
	}
	f.closing.Do(func() {
		f.end()
		err = errors.Join(f.rule.remove(), f.listener.Close())
	})
	f.all.Wait()
	return err
}

func (f *Forwarder) serve(ctx context.Context) {
	for {
		select {
		case f.places <- struct{}{}:
		case <-ctx.Done():
			return
		}
		conn, err := f.accept(ctx)
		if err != nil {
			return
		}
		f.all.Go(func() {
			defer func() { <-f.places }()
			f.forward(ctx, conn)
		})
	}
}

// accept returns the next connection, or an error when this is over. That there are no file descriptors or no memory for
// one passes, and it waits in the kernel.
func (f *Forwarder) accept(ctx context.Context) (*net.TCPConn, error) {
	for failures := 0; ; failures++ {
		conn, err := f.listener.AcceptTCP()
		if err == nil || ctx.Err() != nil || errors.Is(err, net.ErrClosed) {
			return conn, err
		}
		if failures == 0 {
			f.log.Error("port-forward takes no connections at the moment", "error", err)
		}
		select {
		case <-time.After(acceptPause):
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// forward passes one connection on. Where nobody in the guest takes it, it is reset: that comes nearest to a refusal.
func (f *Forwarder) forward(ctx context.Context, conn *net.TCPConn) {
	defer conn.Close()
	port, err := meantFor(conn)
	if err != nil {
		f.log.Warn("port-forward", "error", err)
		return
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	server, err := f.dial(ctx, port)
	if err != nil {
		_ = conn.SetLinger(0)
		f.log.Info("port-forward: the guest does not take the connection", "port", port, "error", err)
		return
	}
	f.log.Debug("port-forward", "port", port)
	defer server.Close()
	stop := context.AfterFunc(ctx, func() { _, _ = conn.Close(), server.Close() }) // ends what waits for either
	defer stop()
	var up sync.WaitGroup
	up.Go(func() {
		_, err := copyTo(server, conn)
		if err == nil {
			err = server.CloseWrite()
		}
		if err != nil {
			cancel() // the client has gone, or the server does not read any more
			return
		}
		f.all.Go(func() {
			if hungUp(conn) {
				cancel()
			}
		})
	})
	if _, err := copyTo(conn, server); err != nil {
		_ = conn.SetLinger(0)
		cancel()
	}
	// The server has said all. Whoever dialed closes its side then; containerd waits a second for it.
	_ = conn.CloseWrite()
	up.Wait()
}

// tcpClose is the kernel's TCP_CLOSE.
const tcpClose = 7

// hungUp waits until a client that has said all is gone altogether, of which the kernel learns by a reset, the latest
// one to a probe of ours; it returns false if this side has closed first. A server that does not mind the end of what
// it is told would otherwise keep the connection, and its place, for as long as the pod lives.
func hungUp(conn *net.TCPConn) bool {
	raw, err := conn.SyscallConn()
	if err != nil {
		return false
	}
	err = raw.Read(func(fd uintptr) bool {
		info, err := unix.GetsockoptTCPInfo(int(fd), unix.SOL_TCP, unix.TCP_INFO)
		return err != nil || info.State == tcpClose
	})
	return err == nil
}

var buffers = sync.Pool{New: func() any { b := make([]byte, 64<<10); return &b }}

// copyTo is io.Copy without its short cuts, which need a socket on both sides.
func copyTo(to io.Writer, from io.Reader) (int64, error) {
	buffer := buffers.Get().(*[]byte)
	defer buffers.Put(buffer)
	return io.CopyBuffer(struct{ io.Writer }{to}, struct{ io.Reader }{from}, *buffer)
}

// meantFor is the port that the connection was dialed for, before the rule led it here.
func meantFor(conn *net.TCPConn) (port uint16, err error) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return 0, err
	}
	controlErr := raw.Control(func(fd uintptr) {
		// The answer is a sockaddr_in, which is as long as this: family, port, address.
		var in *unix.IPv6Mreq
		if in, err = unix.GetsockoptIPv6Mreq(int(fd), unix.SOL_IP, unix.SO_ORIGINAL_DST); err == nil {
			port = uint16(in.Multiaddr[2])<<8 | uint16(in.Multiaddr[3])
		}
	})
	if err = errors.Join(controlErr, err); err != nil {
		return 0, fmt.Errorf("which port the connection is for: %w", err)
	}
	return port, nil
}
