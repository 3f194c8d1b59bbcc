package network

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/katadirect/katadirect/internal/rollback"
)

// redirectPriority marks the filters that are made here among those of others ("kd").
const redirectPriority = 0x6b64

// ErrOccupied is returned for an interface whose incoming frames go through somebody else's filters already: in front
// of ours these would not be seen any more, behind them ours would not be.
var ErrOccupied = errors.New("somebody else filters what comes in through the interface")

// join makes what comes in on one interface go out on the other, before the namespace's own network sees it. undo
// gets what is to be taken back; the tap takes its half along when it goes.
func (n *namespace) join(i iface, queues int, undo *rollback.Stack) (*tap, error) {
	t, err := n.newTap(queues)
	if err != nil {
		return nil, err
	}
	undo.Push("remove the tap", func(context.Context) error { return t.close() })
	link, err := n.LinkByName(t.name)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", t.name, err)
	}
	if err := n.prepareTap(link, i); err != nil {
		return nil, fmt.Errorf("%s for %s: %w", t.name, i.name, err)
	}
	undo.Push("stop redirecting "+i.name, func(context.Context) error { return n.unredirect(i.index) })
	if err := n.redirect(i.index, link.Attrs().Index); err != nil {
		return nil, fmt.Errorf("redirect %s to %s: %w", i.name, t.name, err)
	}
	if err := n.redirect(link.Attrs().Index, i.index); err != nil {
		return nil, fmt.Errorf("redirect %s to %s: %w", t.name, i.name, err)
	}
	return t, nil
}

// prepareTap gives the tap the interface's MTU and brings it up. It gets no address: what the namespace's own kernel
// says on it, the guest would hear.
func (n *namespace) prepareTap(tap netlink.Link, i iface) error {
	const none = 1 // IN6_ADDR_GEN_MODE_NONE
	if err := n.LinkSetIP6AddrGenMode(tap, none); err != nil && !errors.Is(err, unix.EAFNOSUPPORT) && !errors.Is(err, unix.EOPNOTSUPP) {
		return fmt.Errorf("no IPv6 address: %w", err)
	}
	if err := n.LinkSetMTU(tap, i.mtu); err != nil {
		return fmt.Errorf("set MTU %d: %w", i.mtu, err)
	}
	if err := n.LinkSetUp(tap); err != nil {
		return fmt.Errorf("bring up: %w", err)
	}
	return nil
}

// redirect sends everything that comes in on one interface out on another. The u32 classifier that matches everything
// is what every kernel with traffic control has; matchall many have not.
func (n *namespace) redirect(from, to int) error {
	if err := n.unredirect(from); err != nil { // what a machine before this one has left
		return err
	}
	qdisc := &netlink.Ingress{QdiscAttrs: netlink.QdiscAttrs{
		LinkIndex: from, Handle: netlink.MakeHandle(0xffff, 0), Parent: netlink.HANDLE_INGRESS,
	}}
	err := n.QdiscAdd(qdisc)
	if errors.Is(err, unix.EEXIST) {
		return ErrOccupied
	}
	if err != nil {
		return fmt.Errorf("add the ingress queue: %w", err)
	}
	filter := &netlink.U32{
		FilterAttrs: netlink.FilterAttrs{
			LinkIndex: from, Parent: qdisc.Handle, Priority: redirectPriority, Protocol: unix.ETH_P_ALL,
		},
		Actions: []netlink.Action{netlink.NewMirredAction(to)},
	}
	if err := n.FilterAdd(filter); err != nil {
		return errors.Join(fmt.Errorf("add the filter: %w", err), n.QdiscDel(qdisc))
	}
	return nil
}

// unredirect takes redirect back, and nothing of anybody else's. An interface that is gone has nothing to take back.
func (l links) unredirect(index int) error {
	link, err := l.LinkByIndex(index)
	if errors.As(err, &netlink.LinkNotFoundError{}) {
		return nil
	}
	if err != nil {
		return err
	}
	parent := netlink.MakeHandle(0xffff, 0)
	filters, err := l.FilterList(link, parent)
	if err != nil {
		return fmt.Errorf("list filters: %w", err)
	}
	if !slices.ContainsFunc(filters, isOurs) {
		return nil
	}
	// All of the queue's filters are ours, or redirect had refused the interface.
	err = l.QdiscDel(&netlink.Ingress{QdiscAttrs: netlink.QdiscAttrs{LinkIndex: index, Handle: parent, Parent: netlink.HANDLE_INGRESS}})
	if err != nil && !errors.Is(err, unix.ENODEV) && !errors.Is(err, unix.ENOENT) && !errors.Is(err, unix.EINVAL) {
		return fmt.Errorf("remove the ingress queue: %w", err)
	}
	return nil
}

func isOurs(f netlink.Filter) bool {
	return f.Type() == "u32" && f.Attrs().Priority == redirectPriority
}

// tunDevice makes taps. Opened, it belongs to the network namespace of the thread that opened it.
const tunDevice = "/dev/net/tun"

// tap is a network interface of the pod's namespace whose frames are read and written through descriptors. It lives
// as long as one of them is open: nobody has to remove it, whoever dies.
type tap struct {
	name   string
	queues []*os.File
}

// newTap makes a tap with that many queues.
func (n *namespace) newTap(queues int) (t *tap, err error) {
	t = &tap{name: "tap%d" + tapSuffix}
	err = n.do(func() error {
		for range queues {
			if err := t.addQueue(queues > 1); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return nil, errors.Join(fmt.Errorf("make a tap: %w", err), t.close())
	}
	return t, nil
}

// addQueue opens one more queue; the first makes the tap and learns its name.
func (t *tap) addQueue(more bool) error {
	fd, err := unix.Open(tunDevice, unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return &os.PathError{Op: "open", Path: tunDevice, Err: err}
	}
	t.queues = append(t.queues, os.NewFile(uintptr(fd), tunDevice))
	request, err := unix.NewIfreq(t.name)
	if err != nil {
		return err
	}
	// Frames carry virtio's header, so that checksums and segmentation are left to the last that needs them.
	flags := uint16(unix.IFF_TAP | unix.IFF_NO_PI | unix.IFF_VNET_HDR)
	if more {
		flags |= unix.IFF_MULTI_QUEUE
	}
	request.SetUint16(flags)
	if err := unix.IoctlIfreq(fd, unix.TUNSETIFF, request); err != nil {
		return os.NewSyscallError("TUNSETIFF", err)
	}
	t.name = request.Name()
	return nil
}

func (t *tap) close() error {
	var errs []error
	for _, q := range t.queues {
		if err := q.Close(); !errors.Is(err, os.ErrClosed) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}
