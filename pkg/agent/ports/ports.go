// Package ports connects the host to servers on the guest's loopback, for
// kubectl port-forward. What the connections carry is nobody's business here.
//
// pkg/agent/server calls it for the shim. The guest's processes cannot: they
// have the loopback itself.
package ports

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"strconv"
	"sync"
)

// most is how many connections there may be at a time.
const most = 128

var (
	// ErrPort is returned for what is no port's number.
	ErrPort = errors.New("no TCP port")
	// ErrRefused is returned where nobody listens.
	ErrRefused = errors.New("nobody listens there")
	// ErrNone is returned for a connection that there is not, or not any more.
	ErrNone = errors.New("no such connection to a port")
	// ErrMany is returned when there are too many already.
	ErrMany = fmt.Errorf("there are %d connections to ports already", most)
)

// Ports are connections by number. The zero value is ready.
type Ports struct {
	mu     sync.Mutex
	last   uint64
	dialed map[uint64]*net.TCPConn // nil while it is being dialed
}

// Dial connects to a port as localhost and returns the connection's number.
func (p *Ports) Dial(ctx context.Context, port uint32) (id uint64, err error) {
	if port == 0 || port > math.MaxUint16 {
		return 0, fmt.Errorf("%w: %d", ErrPort, port)
	}
	if id, err = p.reserve(); err != nil {
		return 0, err
	}
	var failures []error
	for _, host := range []string{"127.0.0.1", "::1"} {
		var d net.Dialer
		conn, err := d.DialContext(ctx, "tcp", net.JoinHostPort(host, strconv.FormatUint(uint64(port), 10)))
		if err == nil {
			return id, p.keep(id, conn.(*net.TCPConn))
		}
		failures = append(failures, err)
	}
	p.Close(id)
	if ctx.Err() != nil {
		return 0, ctx.Err()
	}
	return 0, fmt.Errorf("%w: %w", ErrRefused, errors.Join(failures...))
}

func (p *Ports) reserve() (uint64, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.dialed) >= most {
		return 0, ErrMany
	}
	if p.dialed == nil {
		p.dialed = make(map[uint64]*net.TCPConn)
	}
	p.last++
	p.dialed[p.last] = nil
	return p.last, nil
}

// keep notes a connection, unless all were closed while it was made.
func (p *Ports) keep(id uint64, conn *net.TCPConn) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if _, wanted := p.dialed[id]; !wanted {
		conn.Close()
		return ErrNone
	}
	p.dialed[id] = conn
	return nil
}

func (p *Ports) conn(id uint64) (*net.TCPConn, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	conn := p.dialed[id]
	if conn == nil {
		return nil, fmt.Errorf("%w: %d", ErrNone, id)
	}
	return conn, nil
}

// Receive waits for data and returns at most limit bytes of it; none at the end.
func (p *Ports) Receive(id uint64, limit int) ([]byte, error) {
	conn, err := p.conn(id)
	if err != nil {
		return nil, err
	}
	data := make([]byte, max(limit, 1))
	n, err := conn.Read(data)
	switch {
	case n > 0, errors.Is(err, io.EOF):
		return data[:n], nil
	case errors.Is(err, net.ErrClosed):
		return nil, fmt.Errorf("%w: %d", ErrNone, id)
	}
	return nil, err
}

// Send waits until the data is on its way, and then, if last is set, ends what
// the server gets.
func (p *Ports) Send(id uint64, data []byte, last bool) error {
	conn, err := p.conn(id)
	if err != nil {
		return err
	}
	if len(data) > 0 {
		if _, err := conn.Write(data); err != nil {
			return err
		}
	}
	if last {
		return conn.CloseWrite()
	}
	return nil
}

// Close ends a connection and forgets it; calls that wait on it return.
func (p *Ports) Close(id uint64) {
	p.mu.Lock()
	conn := p.dialed[id]
	delete(p.dialed, id)
	p.mu.Unlock()
	if conn != nil {
		_ = conn.Close()
	}
}

// CloseAll ends all connections.
func (p *Ports) CloseAll() {
	p.mu.Lock()
	all := p.dialed
	p.dialed = nil
	p.mu.Unlock()
	for _, conn := range all {
		if conn != nil {
			_ = conn.Close()
		}
	}
}
