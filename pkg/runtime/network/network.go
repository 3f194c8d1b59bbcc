package network

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"

	"github.com/katadirect/katadirect/internal/rollback"
	"github.com/katadirect/katadirect/pkg/runtime/child"
	"github.com/katadirect/katadirect/pkg/runtime/vm"
)

// Model is a way for frames to travel between a pod's interfaces and its machine, by the name that
// internetworking_model has for it.
type Model string

// Models.
const (
	// TCFilter: a tap beside each interface, and traffic control that sends everything from the one to the other.
	TCFilter Model = "tcfilter"
	// Passt: a program that turns the machine's frames into its own sockets' traffic. It reaches out only.
	Passt Model = "passt"
	// None: the machine has its loopback interface only.
	None Model = "none"
)

// maxInterfaces is how many cards a machine can have; see qemu.
const maxInterfaces = 14

// Config says which network a machine is to have.
type Config struct {
	// Namespace is the path of the pod's network namespace; empty if the pod has none of its own.
	Namespace string
	Model     Model
	// Queues is the number of queues of each card.
	Queues int
	// Record is told what Cleanup will need before it is needed.
	Record func(Remains) error
	Log    *slog.Logger
}

// Remains is what a later process must know to clean up.
type Remains struct {
	// Namespace is the path of a network namespace in which something was made.
	Namespace string `json:"namespace,omitempty"`
	// Identity says which namespace that is.
	Identity Identity `json:"namespace_identity,omitzero"`
	// Passt is the running passt.
	Passt child.Process `json:"passt,omitzero"`
}

// Network is a pod's network, joined to its machine.
type Network struct {
	namespace *namespace // nil if nothing was made in it
	found     found
	nics      []vm.NIC
	passt     *passt // nil without
	undo      rollback.Stack
	remains   Remains // of it
}

// Open looks at the pod's namespace and wires each of its interfaces. Nothing of it is left on error.
func Open(ctx context.Context, c Config) (_ *Network, err error) {
	n := &Network{}
	switch c.Model {
	case None:
		return n, nil
	case TCFilter, Passt:
	default:
		return nil, fmt.Errorf("internetworking_model = %q is not supported: use %s, %s or %s", c.Model, TCFilter, Passt, None)
	}
	if c.Namespace == "" {
		c.Log.Warn("the pod has no network namespace of its own (host networking, perhaps): its machine has a loopback interface only")
		return n, nil
	}
	if n.namespace, err = openNamespace(c.Namespace); err != nil {
		return nil, err
	}
	n.undo.Push("close the namespace", func(context.Context) error { return n.namespace.close() })
	defer n.undo.OnError(ctx, &err)
	if n.found, err = n.namespace.scan(c.Log); err != nil {
		return nil, err
	}
	if c.Model == Passt {
		return n, n.openPasst(c)
	}
	return n, n.openTCFilter(c)
}

func (n *Network) openTCFilter(c Config) error {
	if got := len(n.found.interfaces); got > maxInterfaces {
		return fmt.Errorf("the pod has %d interfaces, a machine has room for %d", got, maxInterfaces)
	}
	id, err := n.namespace.identify()
	if err != nil {
		return fmt.Errorf("network namespace %s: %w", c.Namespace, err)
	}
	n.remains = Remains{Namespace: c.Namespace, Identity: id}
	if err := c.Record(n.remains); err != nil {
		return err
	}
	for _, i := range n.found.interfaces {
		tap, err := n.namespace.join(i, c.Queues, &n.undo)
		if err != nil {
			return err
		}
		n.nics = append(n.nics, vm.NIC{MAC: i.mac, Taps: tap.queues})
	}
	return nil
}

// Namespace is open on the namespace in which the machine's process belongs; nil if it has none. It is closed with
// the Network.
func (n *Network) Namespace() *os.File {
	if n.namespace == nil {
		return nil
	}
	return n.namespace.file
}

// Done is closed when the network has ended by itself, and the machine is cut off. It may be nil: a tap does not end.
func (n *Network) Done() <-chan struct{} {
	if n.passt == nil {
		return nil
	}
	return n.passt.Done()
}

// Err says why; valid after Done is closed.
func (n *Network) Err() error { return n.passt.why() }

// NICs are the cards that the machine needs, with the descriptors that it must inherit.
func (n *Network) NICs() []vm.NIC { return n.nics }

// HandedOver closes this process' copies of the descriptors: the network is to end with the machine.
func (n *Network) HandedOver() {
	for _, nic := range n.nics {
		for _, f := range nic.Taps {
			_ = f.Close() // nothing was written
		}
		if nic.Stream != nil {
			_ = nic.Stream.Close()
		}
	}
}

// Close takes everything back. The machine has ended before. It is idempotent; what fails is tried again by the next
// call, in the way of a later process.
func (n *Network) Close(ctx context.Context) error {
	err := n.undo.Run(ctx)
	if err != nil {
		n.undo.Push("take back the rest", func(ctx context.Context) error { return Cleanup(ctx, n.remains) })
	}
	return err
}

// Cleanup takes back what a process that died has left. A namespace that is gone has taken everything along; one that
// is at its path now is left alone.
func Cleanup(ctx context.Context, r Remains) error {
	if err := r.Passt.Kill(ctx); err != nil {
		return fmt.Errorf("end passt: %w", err)
	}
	if r.Namespace == "" {
		return nil
	}
	n, err := openNamespace(r.Namespace)
	switch {
	case errors.Is(err, ErrNoNamespace), errors.Is(err, ErrHostNetwork), errors.Is(err, fs.ErrNotExist), errors.Is(err, os.ErrPermission):
		return nil
	case err != nil:
		return err
	}
	return errors.Join(n.cleanUp(r), n.close())
}

func (n *namespace) cleanUp(r Remains) error {
	id, err := n.identify()
	if err != nil {
		return fmt.Errorf("clean up network namespace %s: %w", r.Namespace, err)
	}
	if !id.is(r.Identity) {
		return nil
	}
	links, err := n.LinkList()
	if err != nil {
		return fmt.Errorf("clean up network namespace %s: %w", r.Namespace, err)
	}
	var errs []error
	for _, link := range links {
		if err := n.unredirect(link.Attrs().Index); err != nil {
			errs = append(errs, fmt.Errorf("clean up interface %s: %w", link.Attrs().Name, err))
		}
	}
	return errors.Join(errs...)
}
