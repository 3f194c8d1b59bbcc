package network

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"

	"golang.org/x/sys/unix"

	"github.com/katadirect/katadirect/internal/rollback"
	"github.com/katadirect/katadirect/pkg/runtime/child"
	"github.com/katadirect/katadirect/pkg/runtime/vm"
)

// passtProgram is Debian's package of that name. It takes the guest's frames apart and speaks for it through ordinary
// sockets in the pod's namespace: nothing there is changed, and no privilege over it is used.
const passtProgram = "passt"

// passtMAC is the address of the one at the other end of the guest's card. It would otherwise take the interface's
// own, which the guest has.
const passtMAC = "9a:55:9a:55:9a:55"

// passt is a running passt.
type passt struct {
	*child.Child
	words *child.Words
}

// startPasst starts it for the interface and returns the machine's end of the connection, whose close ends it: it
// does not outlive the machine whoever dies.
func (n *namespace) startPasst(c Config, i iface, undo *rollback.Stack) (*passt, *os.File, error) {
	theirs, ours, err := connection()
	if err != nil {
		return nil, nil, err
	}
	defer theirs.Close()
	undo.Push("close the connection to passt", func(context.Context) error { return ignoreClosed(ours.Close()) })
	p := &passt{words: child.NewWords(passtProgram, c.Log)}
	cmd := exec.Command(passtProgram, passtArguments(i)...)
	cmd.Stdout, cmd.Stderr = p.words, p.words
	cmd.ExtraFiles = []*os.File{theirs} // descriptor 3, as the arguments say
	if p.Child, err = child.Start(cmd, n.file); err != nil {
		return nil, nil, fmt.Errorf("start passt (Debian's package passt): %w", err)
	}
	undo.Push("end passt", p.Stop)
	return p, ours, nil
}

// passtArguments leave to passt what only it can do. The guest gets its addresses from its agent, so passt need not
// announce any; and what the guest sends to its gateway must not arrive at the namespace's own loopback.
func passtArguments(i iface) []string {
	return []string{
		"--foreground", "--quiet", "--stderr", "--fd", "3", "--interface", i.name, "--mac-addr", passtMAC,
		"--no-map-gw", "--no-dhcp", "--no-dhcpv6", "--no-ra", "--tcp-ports", "none", "--udp-ports", "none",
	}
}

// connection is a pair of connected stream sockets.
func connection() (theirs, ours *os.File, err error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("socket pair for passt: %w", err)
	}
	return os.NewFile(uintptr(fds[0]), passtProgram), os.NewFile(uintptr(fds[1]), passtProgram), nil
}

func ignoreClosed(err error) error {
	if errors.Is(err, os.ErrClosed) {
		return nil
	}
	return err
}

// openPasst gives the machine one card: that of the interface to which the pod's traffic goes.
func (n *Network) openPasst(c Config) (err error) {
	if len(n.found.interfaces) == 0 {
		return nil
	}
	n.found = n.found.only(n.found.outward())
	i := n.found.interfaces[0]
	var machine *os.File
	if n.passt, machine, err = n.namespace.startPasst(c, i, &n.undo); err != nil {
		return err
	}
	n.nics = []vm.NIC{{MAC: i.mac, Stream: machine}}
	n.remains = Remains{Passt: n.passt.Process}
	return c.Record(n.remains)
}

// outward is the interface with a default route, or the first.
func (f found) outward() iface {
	for _, r := range f.routes {
		if i, ok := f.byIndex(r.LinkIndex); ok && isDefault(r.Dst) {
			return i
		}
	}
	return f.interfaces[0]
}

// only is what was found of one interface. Neighbours are left out: passt answers for everybody.
func (f found) only(i iface) found {
	one := found{interfaces: []iface{i}}
	for _, r := range f.routes {
		if r.LinkIndex == i.index {
			one.routes = append(one.routes, r)
		}
	}
	return one
}

// why says how passt has ended.
func (p *passt) why() error {
	if words := p.words.String(); words != "" {
		return fmt.Errorf("passt ended: %w: %s", p.Child.Err(), words)
	}
	return fmt.Errorf("passt ended: %w", p.Child.Err())
}
