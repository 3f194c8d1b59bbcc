package network

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// found is what a scan has seen in a namespace.
type found struct {
	interfaces []iface
	routes     []netlink.Route
	neighbours []netlink.Neigh
}

// iface is an interface that goes into the machine.
type iface struct {
	index     int
	name      string
	kind      string // veth, macvlan, …
	mac       net.HardwareAddr
	mtu       int
	arp       bool
	addresses []address
}

// address is one of an interface's.
type address struct {
	netlink.Addr
	// onLink says that its network is reached directly, as the kernel has it unless it is told otherwise.
	onLink bool
}

// tapSuffix ends the names of the taps that are made here, which are no interfaces of the pod's. It is Kata's.
const tapSuffix = "_kata"

// scan looks at every interface. What cannot go into a machine is left out, and logged if somebody may miss it.
func (l links) scan(log *slog.Logger) (found, error) {
	all, err := l.LinkList()
	if err != nil {
		return found{}, fmt.Errorf("list interfaces: %w", err)
	}
	var f found
	for _, link := range all {
		reason := unfit(link, all)
		if reason == "" {
			addresses, err := l.AddrList(link, netlink.FAMILY_ALL)
			if err != nil {
				return found{}, fmt.Errorf("list addresses of %s: %w", link.Attrs().Name, err)
			}
			f.interfaces = append(f.interfaces, newIface(link, addresses))
			continue
		}
		if reason != boring {
			log.Warn("an interface of the pod stays outside of its machine", "interface", link.Attrs().Name, "reason", reason)
		}
	}
	if f.routes, err = l.scanRoutes(f); err != nil {
		return found{}, err
	}
	f.neighbours, err = l.scanNeighbours(f)
	return f, err
}

// boring is the reason nobody needs to hear: loopback, and the unused tunnels that each namespace is born with.
const boring = "boring"

// unfit says why a link cannot be in the machine; empty if it can.
func unfit(link netlink.Link, all []netlink.Link) string {
	a := link.Attrs()
	switch {
	case a.Flags&net.FlagLoopback != 0, strings.HasSuffix(a.Name, tapSuffix):
		return boring
	case a.Flags&net.FlagUp == 0:
		return boring // the base devices of gre and the like are never up
	case len(a.HardwareAddr) != 6:
		return fmt.Sprintf("a %s interface has no Ethernet address, a machine's card must have one", link.Type())
	case a.MasterIndex != 0:
		return "it is a port of another interface"
	}
	// What stands on top of another interface of the namespace would get no frames: that one's go into the machine.
	// A veth's parent is its other end, which is elsewhere.
	if a.ParentIndex != 0 && a.NetNsID < 0 && link.Type() != "veth" {
		i := slices.IndexFunc(all, func(o netlink.Link) bool { return o.Attrs().Index == a.ParentIndex })
		if i >= 0 && all[i].Attrs().Flags&net.FlagUp != 0 {
			return fmt.Sprintf("it stands on %s, whose frames go into the machine", all[i].Attrs().Name)
		}
	}
	return ""
}

func newIface(link netlink.Link, addresses []netlink.Addr) iface {
	a := link.Attrs()
	i := iface{index: a.Index, name: a.Name, kind: link.Type(), mac: a.HardwareAddr, mtu: a.MTU, arp: a.RawFlags&unix.IFF_NOARP == 0}
	for _, addr := range addresses {
		switch {
		case addr.IPNet == nil, addr.Flags&unix.IFA_F_DADFAILED != 0, addr.Flags&unix.IFA_F_TEMPORARY != 0:
		case addr.IP.Equal(linkLocal(i.mac)): // the guest's kernel makes the same of the same hardware address
		default:
			i.addresses = append(i.addresses, address{Addr: addr})
		}
	}
	return i
}

// linkLocal is the IPv6 address that a kernel gives an interface by itself (RFC 4291, appendix A).
func linkLocal(mac net.HardwareAddr) net.IP {
	return net.IP{0xfe, 0x80, 0, 0, 0, 0, 0, 0, mac[0] ^ 2, mac[1], mac[2], 0xff, 0xfe, mac[3], mac[4], mac[5]}
}

func (f found) byIndex(index int) (iface, bool) {
	i := slices.IndexFunc(f.interfaces, func(i iface) bool { return i.index == index })
	if i < 0 {
		return iface{}, false
	}
	return f.interfaces[i], true
}

// scanRoutes lists the routes of the main table that the guest's kernel will not make by itself.
func (l links) scanRoutes(f found) ([]netlink.Route, error) {
	all, err := l.RouteList(nil, netlink.FAMILY_ALL) // of the main table
	if err != nil {
		return nil, fmt.Errorf("list routes: %w", err)
	}
	for i := range f.interfaces {
		f.interfaces[i].findOnLink(all)
	}
	var routes []netlink.Route
	for _, r := range all {
		if len(r.MultiPath) > 0 { // the agent's messages have no room for a second way
			first := r.MultiPath[0]
			r.LinkIndex, r.Gw, r.Flags = first.LinkIndex, first.Gw, r.Flags|first.Flags
		}
		i, ours := f.byIndex(r.LinkIndex)
		if ours && r.Type == unix.RTN_UNICAST && !i.makes(r) {
			routes = append(routes, r)
		}
	}
	return preferred(routes), nil
}

// findOnLink looks for the route to the network of each address. A plugin may have taken it away, and then the guest's
// kernel must not make it either.
func (i iface) findOnLink(routes []netlink.Route) {
	for at, a := range i.addresses {
		i.addresses[at].onLink = slices.ContainsFunc(routes, func(r netlink.Route) bool {
			return r.LinkIndex == i.index && r.Gw == nil && r.Via == nil && sameNet(r.Dst, a.network())
		})
	}
}

// makes says whether the guest's kernel makes the route by itself for one of the interface's addresses.
func (i iface) makes(r netlink.Route) bool {
	if r.Gw != nil || r.Via != nil || r.Dst == nil || r.Protocol != unix.RTPROT_KERNEL {
		return false
	}
	if r.Dst.IP.IsLinkLocalUnicast() && r.Dst.IP.To4() == nil {
		return true
	}
	return slices.ContainsFunc(i.addresses, func(a address) bool { return a.onLink && sameNet(r.Dst, a.network()) })
}

func (a address) network() *net.IPNet { return &net.IPNet{IP: a.IP.Mask(a.Mask), Mask: a.Mask} }

func sameNet(a, b *net.IPNet) bool {
	return a != nil && b != nil && a.IP.Equal(b.IP) && slices.Equal(a.Mask, b.Mask)
}

// preferred keeps, of several routes to one destination, the one that the kernel would take: the agent's messages
// carry no metric, and in the guest the last one would win.
func preferred(routes []netlink.Route) []netlink.Route {
	var best []netlink.Route
	for _, r := range routes {
		at := slices.IndexFunc(best, func(o netlink.Route) bool { return o.Family == r.Family && sameDestination(o, r) })
		switch {
		case at < 0:
			best = append(best, r)
		case r.Priority < best[at].Priority:
			best[at] = r
		}
	}
	return best
}

func sameDestination(a, b netlink.Route) bool {
	return sameNet(a.Dst, b.Dst) || isDefault(a.Dst) && isDefault(b.Dst)
}

func isDefault(n *net.IPNet) bool {
	if n == nil {
		return true
	}
	ones, _ := n.Mask.Size()
	return ones == 0 && n.IP.IsUnspecified()
}

// scanNeighbours lists the entries that somebody has made on purpose.
func (l links) scanNeighbours(f found) ([]netlink.Neigh, error) {
	var kept []netlink.Neigh
	for _, i := range f.interfaces {
		all, err := l.NeighList(i.index, netlink.FAMILY_ALL)
		if err != nil && !errors.Is(err, unix.ENODEV) {
			return nil, fmt.Errorf("list neighbours of %s: %w", i.name, err)
		}
		for _, n := range all {
			if n.State == netlink.NUD_PERMANENT && n.HardwareAddr != nil {
				kept = append(kept, n)
			}
		}
	}
	return kept, nil
}
