package sandbox

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"sync"

	"github.com/containerd/ttrpc"

	"github.com/katadirect/katadirect/pkg/agentproto"
	"github.com/katadirect/katadirect/pkg/runtime/vm"
)

var errInjected = errors.New("injected")

// machine is a hypervisor that has an agent at once, and dies or fails when told to. The real one is tried in
// machine_test.go.
type machine struct {
	pid       int // the test's own unless it is set
	agent     *agent
	failStart error
	failDial  error
	failStop  error
	failGrow  error

	mu               sync.Mutex
	plugged          map[string]vm.Disk
	vcpus, memoryMiB int // that it was grown to
	conns            []net.Conn
	err              error
	done             chan struct{}
	served           sync.WaitGroup
}

func newMachine(a *agent) *machine {
	return &machine{agent: a, plugged: make(map[string]vm.Disk), done: make(chan struct{})}
}

func (m *machine) Start(context.Context) error { return m.failStart }

func (m *machine) DialAgent(ctx context.Context) (net.Conn, error) {
	if m.failDial != nil {
		<-ctx.Done() // like a guest that never comes up
		return nil, m.failDial
	}
	l, err := net.Listen("unix", "")
	if err != nil {
		return nil, err
	}
	server, err := ttrpc.NewServer()
	if err != nil {
		return nil, err
	}
	agentproto.RegisterAgentServiceService(server, m.agent)
	agentproto.RegisterHealthService(server, m.agent)
	m.served.Go(func() { _ = server.Serve(context.Background(), l) })
	m.served.Go(func() { <-m.done; _ = server.Close() })
	conn, err := net.Dial("unix", l.Addr().String())
	m.mu.Lock()
	defer m.mu.Unlock()
	m.conns = append(m.conns, conn)
	return conn, err
}

func (m *machine) AgentURL() string { return "vserial:///test" }

func (m *machine) PlugDisk(_ context.Context, d vm.Disk) (vm.DiskAddress, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.plugged[d.ID] = d
	return vm.DiskAddress{Driver: "blk", Source: fmt.Sprintf("02/%02x", len(m.plugged))}, nil
}

func (m *machine) UnplugDisk(_ context.Context, id string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.plugged, id)
	return nil
}

func (m *machine) ResizeDisk(context.Context, string, int64) error           { return nil }
func (m *machine) ThrottleDisk(context.Context, string, vm.DiskLimits) error { return nil }
func (m *machine) CopyDisk(context.Context, string, string) (vm.DiskCopy, error) {
	return nil, vm.ErrNotFound
}
func (m *machine) DiskFaults(string) vm.DiskFaults { return vm.DiskFaults{} }
func (m *machine) GrowVCPUs(_ context.Context, total int) (int, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	added := max(0, total-max(m.vcpus, 1))
	m.vcpus = max(m.vcpus, 1) + added
	return added, m.failGrow
}

func (m *machine) GrowMemory(_ context.Context, totalMiB int) (int, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.memoryMiB = max(m.memoryMiB, totalMiB)
	return m.memoryMiB, m.failGrow
}

func (m *machine) PID() int              { return cmp.Or(m.pid, os.Getpid()) }
func (m *machine) Done() <-chan struct{} { return m.done }

func (m *machine) Err() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.err
}

// die ends the machine by itself.
func (m *machine) die(err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	select {
	case <-m.done:
	default:
		m.err = err
		close(m.done)
	}
	for _, c := range m.conns {
		_ = c.Close()
	}
}

func (m *machine) Stop(context.Context) error {
	if m.failStop != nil {
		return m.failStop
	}
	m.die(nil)
	return nil
}
