package server

import (
	"net"
	"sync"
)

// hungUp lets everything go on that the host has stopped, and ends what it was
// to have the output of.
func (s *Service) hungUp() {
	if mounts := s.Sandbox.Mounts; mounts != nil {
		mounts.ThawAll("the host has hung up")
	}
	if s.Console != nil {
		s.Console.CloseAll()
	}
	s.ports.CloseAll()
}

// telling is a listener that tells when a connection has ended: what the host
// wanted for a while must not outlive the host.
type telling struct {
	net.Listener
	hungUp func()
}

func (t *telling) Accept() (net.Conn, error) {
	conn, err := t.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return &told{Conn: conn, hungUp: sync.OnceFunc(t.hungUp)}, nil
}

type told struct {
	net.Conn
	hungUp func()
}

// Close is called by the server when the host's end is closed.
func (c *told) Close() error {
	err := c.Conn.Close()
	c.hungUp()
	return err
}
