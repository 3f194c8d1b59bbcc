// Package qemu runs a pod's virtual machine with QEMU. It implements pkg/runtime/vm and is used by
// pkg/runtime/sandbox. It knows of processes, QMP and the machine's hardware; it must never know of containers,
// records, OCI or the agent's protocol.
package qemu

import (
	"context"
	"errors"
	"net"

	"github.com/katadirect/katadirect/pkg/runtime/vm"
)

// Machine is one QEMU process; see vm.Machine for its life.
type Machine struct {
	cfg  Config
	done chan struct{}
}

var _ vm.Machine = (*Machine)(nil)

var errNotBuilt = errors.New("qemu: not built yet")

// New describes a machine. Nothing is started and nothing is on disk until Start.
func New(cfg Config) *Machine { return &Machine{cfg: cfg, done: make(chan struct{})} }

// Start implements vm.Machine.
func (m *Machine) Start(ctx context.Context) error { return errNotBuilt }

// DialAgent implements vm.Machine.
func (m *Machine) DialAgent(ctx context.Context) (net.Conn, error) { return nil, errNotBuilt }

// AgentURL implements vm.Machine.
func (m *Machine) AgentURL() string { return "vserial://" + m.cfg.Dir + "/agent.sock" }

// PlugDisk implements vm.Machine.
func (m *Machine) PlugDisk(ctx context.Context, d vm.Disk) (vm.DiskAddress, error) {
	return vm.DiskAddress{}, errNotBuilt
}

// UnplugDisk implements vm.Machine.
func (m *Machine) UnplugDisk(ctx context.Context, id string) error { return errNotBuilt }

// ResizeDisk implements vm.Machine.
func (m *Machine) ResizeDisk(ctx context.Context, id string, sizeBytes int64) error {
	return errNotBuilt
}

// PID implements vm.Machine.
func (m *Machine) PID() int { return 0 }

// Done implements vm.Machine.
func (m *Machine) Done() <-chan struct{} { return m.done }

// Err implements vm.Machine.
func (m *Machine) Err() error { return nil }

// Stop implements vm.Machine.
func (m *Machine) Stop(ctx context.Context) error { return errNotBuilt }

// Kill ends the QEMU of the machine folder dir from a process that did not start it, and removes the folder. It
// is how a crashed shim's machine is cleaned up. A folder that is not there is success.
func Kill(ctx context.Context, dir string) error { return errNotBuilt }
