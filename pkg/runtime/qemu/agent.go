package qemu

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"github.com/katadirect/katadirect/pkg/runtime/qmp"
)

// agentChannel is the state of the connection to the guest's agent.
//
// A virtio-serial port has no connections: the guest reads one stream, and sees only that the host has hung up or is
// there. If the host hung up and came back before the guest noticed, the guest would go on with its old session, and
// nothing would fit any more. So after a hang-up the next dial waits until the guest has closed the port, and then
// until it has opened it again.
type agentChannel struct {
	cid uint32 // of the vsock; 0 if the channel is a virtio-serial port

	mu   sync.Mutex
	busy bool // a connection is open, or being opened
	// changes collects what QEMU reports of the port since the last connection ended. It is not nil from the
	// first hang-up that the guest must notice until it has.
	changes *qmp.Subscription
}

var errChannelBusy = errors.New("the agent's channel is in use: close the first connection before dialling again")

// QEMU reports a change of the port at once, but then no second one within a second, so it must be asked as well:
// seldom while the guest boots, and so often after a hang-up that the moment is hardly ever missed for which the guest
// has the port closed.
const (
	openPoll   = 10 * time.Millisecond
	closedPoll = 20 * time.Microsecond
	// closedPollFor is how long it is worth asking so often. Whatever happens later shows in the events, if late.
	closedPollFor = 100 * time.Millisecond
)

// AgentURL implements vm.Machine. It is valid after Start.
func (m *Machine) AgentURL() string {
	if m.agent.cid != 0 {
		return fmt.Sprintf("vsock://%d:%d", m.agent.cid, agentVsock)
	}
	return "vserial://" + m.cfg.agentSocket()
}

// DialAgent implements vm.Machine. When the machine ends first, the error is vm.ErrGone with the reason.
func (m *Machine) DialAgent(ctx context.Context) (net.Conn, error) {
	run, err := m.control()
	if err != nil {
		return nil, err
	}
	ctx, release := m.whileAlive(ctx)
	defer release()
	var conn net.Conn
	if m.agent.cid != 0 {
		conn, err = dialVsock(ctx, m.agent.cid)
	} else {
		conn, err = m.dialPort(ctx, run.qmp)
	}
	if err != nil {
		return nil, fmt.Errorf("connect to the guest's agent: %w", m.explain(err))
	}
	return conn, nil
}

// dialPort connects to the virtio-serial port. The socket is QEMU's and accepts at once; what takes time is the guest.
func (m *Machine) dialPort(ctx context.Context, client *qmp.Client) (_ net.Conn, err error) {
	if err := m.agent.acquire(); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			m.agent.free()
		}
	}()
	if err := m.agent.untilNoticed(ctx, client); err != nil {
		return nil, fmt.Errorf("the guest has not noticed that the last connection ended: %w", err)
	}
	if err := untilPortOpen(ctx, client); err != nil {
		return nil, fmt.Errorf("no agent has opened the port: %w", err)
	}
	var dialer net.Dialer
	conn, err := dialer.DialContext(ctx, "unix", m.cfg.agentSocket())
	if err != nil {
		return nil, err
	}
	return &portConn{Conn: conn, channel: &m.agent, client: client}, nil
}

func (a *agentChannel) acquire() error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.busy {
		return errChannelBusy
	}
	a.busy = true
	return nil
}

// free lets the next dial begin.
func (a *agentChannel) free() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.busy = false
}

// expectNotice must come before the hang-up.
func (a *agentChannel) expectNotice(client *qmp.Client) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.changes == nil {
		a.changes = client.Subscribe(1, portChangedAfter(time.Now()))
	}
}

// portChangedAfter matches changes of the port that happened after since. QEMU stamps an event with the time of the
// change even when it reports it a second later.
func portChangedAfter(since time.Time) func(qmp.Event) bool {
	return func(e qmp.Event) bool { return e.Name == "VSERPORT_CHANGE" && e.Time.After(since) }
}

// untilNoticed waits until the guest has closed the port after the last hang-up.
func (a *agentChannel) untilNoticed(ctx context.Context, client *qmp.Client) error {
	a.mu.Lock()
	changes := a.changes
	a.mu.Unlock()
	if changes == nil {
		return nil
	}
	began := time.Now()
	for {
		open, err := portOpen(ctx, client)
		if err != nil {
			return err
		}
		if !open {
			break
		}
		poll := closedPoll
		if time.Since(began) > closedPollFor {
			poll = openPoll
		}
		changed, err := awaitChange(ctx, changes, poll)
		if err != nil {
			return err
		}
		if changed {
			break // it closed the port, and opened it again before this side could look
		}
	}
	changes.Close()
	a.mu.Lock()
	defer a.mu.Unlock()
	a.changes = nil
	return nil
}

// untilPortOpen waits until the guest has the port open.
func untilPortOpen(ctx context.Context, client *qmp.Client) error {
	changes := client.Subscribe(1, portChangedAfter(time.Time{}))
	defer changes.Close()
	for {
		if open, err := portOpen(ctx, client); open || err != nil {
			return err
		}
		if _, err := awaitChange(ctx, changes, openPoll); err != nil {
			return err
		}
	}
}

// awaitChange waits for a change, for patience at most, and says whether there was one.
func awaitChange(ctx context.Context, changes *qmp.Subscription, patience time.Duration) (bool, error) {
	bounded, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	_, err := changes.Next(bounded)
	switch {
	case err == nil:
		return true, nil
	case ctx.Err() != nil:
		return false, context.Cause(ctx)
	case errors.Is(err, qmp.ErrClosed):
		return false, err
	}
	return false, nil
}

// portOpen asks QEMU whether the guest has the agent's port open.
func portOpen(ctx context.Context, client *qmp.Client) (bool, error) {
	var chardevs []struct {
		Label string `json:"label"`
		Open  bool   `json:"frontend-open"`
	}
	if err := client.Run(ctx, "query-chardev", nil, &chardevs); err != nil {
		return false, err
	}
	for _, c := range chardevs {
		if c.Label == agentChardev {
			return c.Open, nil
		}
	}
	return false, errors.New("QEMU has no port for the agent")
}

// portConn is a session on the virtio-serial port.
type portConn struct {
	net.Conn
	once    sync.Once
	channel *agentChannel
	client  *qmp.Client
}

// Close hangs up. The guest notices some milliseconds later.
func (c *portConn) Close() error {
	err := net.ErrClosed
	c.once.Do(func() {
		c.channel.expectNotice(c.client)
		err = c.Conn.Close()
		c.channel.free()
	})
	return err
}
