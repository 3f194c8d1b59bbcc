// Package network sets the machine's network interfaces, routes and neighbours
// to what the shim found in the pod's network namespace on the host.
//
// pkg/agent/server calls it, one function for a method. How the host's side is
// wired to the machine is the shim's affair.
package network

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/katadirect/katadirect/pkg/agent/device"
	"github.com/katadirect/katadirect/pkg/agent/module"
	"github.com/katadirect/katadirect/pkg/agentproto"
)

var (
	// ErrRequest is returned for a request that makes no sense.
	ErrRequest = errors.New("network request is not usable")
	// ErrNoLink is returned for an interface that is not there. Kata's shims
	// try again for as long as the error has these words.
	//lint:ignore ST1005 the words are the protocol
	ErrNoLink = errors.New("Link not found")
)

// Network is the machine's. Its fields are set once, before use.
type Network struct {
	Finder  *device.Finder
	Modules *module.Loader
	// Tools runs a program; it is a reaper.Reaper's Output.
	Tools func(ctx context.Context, name string, args ...string) (output []byte, status int, err error)
}

// UpdateInterface finds an interface by its hardware address, and gives it the
// name, MTU and exactly the addresses asked for.
func (n *Network) UpdateInterface(ctx context.Context, want *agentproto.Interface) error {
	if want == nil {
		return fmt.Errorf("update interface: %w: none was sent", ErrRequest)
	}
	if err := n.Modules.Load(module.Network); err != nil {
		return err
	}
	link, err := n.find(ctx, want)
	if err != nil {
		return fmt.Errorf("update interface %q: %w", want.GetName(), err)
	}
	if err := apply(link, want); err != nil {
		return fmt.Errorf("update interface %q: %w", want.GetName(), err)
	}
	return nil
}

func (n *Network) find(ctx context.Context, want *agentproto.Interface) (netlink.Link, error) {
	if path := want.GetDevicePath(); path != "" {
		pci, err := device.ParsePCIPath(path)
		if err != nil {
			return nil, err
		}
		ctx, cancel := context.WithTimeout(ctx, device.DefaultTimeout)
		defer cancel()
		name, err := n.Finder.NetByPCIPath(ctx, pci)
		if err != nil {
			return nil, err
		}
		return netlink.LinkByName(name)
	}
	links, err := netlink.LinkList()
	if err != nil {
		return nil, err
	}
	for _, link := range links {
		if address := want.GetHwAddr(); address != "" && strings.EqualFold(link.Attrs().HardwareAddr.String(), address) {
			return link, nil
		}
	}
	for _, link := range links {
		if want.GetHwAddr() == "" && link.Attrs().Name == want.GetName() {
			return link, nil
		}
	}
	return nil, fmt.Errorf("%w: hardware address %q", ErrNoLink, want.GetHwAddr())
}

// apply brings the link down, for its name can be changed only then, sets it
// up anew, and brings it up.
func apply(link netlink.Link, want *agentproto.Interface) error {
	if err := netlink.LinkSetDown(link); err != nil {
		return fmt.Errorf("bring down: %w", err)
	}
	if name := want.GetName(); name != "" && name != link.Attrs().Name {
		if err := netlink.LinkSetName(link, name); err != nil {
			return fmt.Errorf("rename: %w", err)
		}
	}
	if mtu := want.GetMtu(); mtu != 0 {
		if err := netlink.LinkSetMTU(link, int(mtu)); err != nil {
			return fmt.Errorf("set MTU %d: %w", mtu, err)
		}
	}
	if want.GetRawFlags()&unix.IFF_NOARP != 0 {
		if err := netlink.LinkSetARPOff(link); err != nil {
			return fmt.Errorf("switch ARP off: %w", err)
		}
	}
	if err := setAddresses(link, want.GetIPAddresses()); err != nil {
		return err
	}
	if err := trustLinkLocal(cmp.Or(want.GetName(), link.Attrs().Name)); err != nil {
		return err
	}
	if err := netlink.LinkSetUp(link); err != nil {
		return fmt.Errorf("bring up: %w", err)
	}
	return nil
}

// trustLinkLocal lets the kernel use the IPv6 address that it makes of the
// hardware address at once, instead of asking around for a second first: the
// host has the same of the same. A kernel without IPv6 has nothing to ask.
func trustLinkLocal(name string) error {
	err := os.WriteFile(filepath.Join("/proc/sys/net/ipv6/conf", name, "accept_dad"), []byte("0"), 0)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("duplicate address detection: %w", err)
	}
	return nil
}

func setAddresses(link netlink.Link, wanted []*agentproto.IPAddress) error {
	have, err := netlink.AddrList(link, netlink.FAMILY_ALL)
	if err != nil {
		return err
	}
	for i := range have {
		// The kernel's own link-local address comes and goes with the link.
		if have[i].IP.IsLinkLocalUnicast() && have[i].IP.To4() == nil {
			continue
		}
		if err := netlink.AddrDel(link, &have[i]); err != nil {
			return fmt.Errorf("remove address %s: %w", have[i].IPNet, err)
		}
	}
	for _, w := range wanted {
		address, err := parseAddress(w)
		if err != nil {
			return err
		}
		if address.IP.To4() == nil {
			// The host has made sure that nobody else has it.
			address.Flags = unix.IFA_F_NODAD
		}
		if err := netlink.AddrReplace(link, address); err != nil {
			return fmt.Errorf("add address %s: %w", address.IPNet, err)
		}
	}
	return nil
}

func parseAddress(a *agentproto.IPAddress) (*netlink.Addr, error) {
	ip := net.ParseIP(a.GetAddress())
	prefix, err := strconv.Atoi(a.GetMask())
	bits := 8 * net.IPv6len
	if ip.To4() != nil {
		bits = 8 * net.IPv4len
	}
	if ip == nil || err != nil || prefix < 0 || prefix > bits {
		return nil, fmt.Errorf("%w: address %q with prefix %q", ErrRequest, a.GetAddress(), a.GetMask())
	}
	return &netlink.Addr{IPNet: &net.IPNet{IP: ip, Mask: net.CIDRMask(prefix, bits)}}, nil
}

// Interfaces lists the interfaces but loopback.
func (n *Network) Interfaces() ([]*agentproto.Interface, error) {
	links, err := netlink.LinkList()
	if err != nil {
		return nil, fmt.Errorf("list interfaces: %w", err)
	}
	var out []*agentproto.Interface
	for _, link := range links {
		attrs := link.Attrs()
		if attrs.Flags&net.FlagLoopback != 0 {
			continue
		}
		addresses, err := netlink.AddrList(link, netlink.FAMILY_ALL)
		if err != nil {
			return nil, fmt.Errorf("list addresses of %s: %w", attrs.Name, err)
		}
		entry := &agentproto.Interface{
			Device: attrs.Name, Name: attrs.Name, Mtu: uint64(attrs.MTU), HwAddr: attrs.HardwareAddr.String(),
			Type: link.Type(), RawFlags: attrs.RawFlags,
		}
		for _, a := range addresses {
			prefix, _ := a.Mask.Size()
			entry.IPAddresses = append(entry.IPAddresses, &agentproto.IPAddress{
				Family: family(a.IP), Address: a.IP.String(), Mask: strconv.Itoa(prefix),
			})
		}
		out = append(out, entry)
	}
	return out, nil
}

func family(ip net.IP) agentproto.IPFamily {
	if ip.To4() == nil {
		return agentproto.IPFamily_v6
	}
	return agentproto.IPFamily_v4
}

// AddNeighbors adds entries to the table of neighbours.
func (n *Network) AddNeighbors(neighbors []*agentproto.ARPNeighbor) error {
	for _, want := range neighbors {
		link, err := netlink.LinkByName(want.GetDevice())
		if err != nil {
			return fmt.Errorf("add neighbour: %w: %s: %w", ErrNoLink, want.GetDevice(), err)
		}
		ip := net.ParseIP(want.GetToIPAddress().GetAddress())
		if ip == nil {
			return fmt.Errorf("add neighbour: %w: address %q", ErrRequest, want.GetToIPAddress().GetAddress())
		}
		entry := &netlink.Neigh{
			LinkIndex: link.Attrs().Index, IP: ip, State: int(want.GetState()), Flags: int(want.GetFlags()),
		}
		if entry.State == 0 {
			entry.State = netlink.NUD_PERMANENT
		}
		if address := want.GetLladdr(); address != "" {
			if entry.HardwareAddr, err = net.ParseMAC(address); err != nil {
				return fmt.Errorf("add neighbour %s: %w: %w", ip, ErrRequest, err)
			}
		}
		if err := netlink.NeighSet(entry); err != nil {
			return fmt.Errorf("add neighbour %s: %w", ip, err)
		}
	}
	return nil
}

// Figures are the counters of the interfaces but loopback.
func (n *Network) Figures() []*agentproto.NetworkStats {
	const dir = "/sys/class/net"
	entries, _ := os.ReadDir(dir)
	var out []*agentproto.NetworkStats
	for _, e := range entries {
		if e.Name() == "lo" {
			continue
		}
		read := func(counter string) uint64 {
			data, _ := os.ReadFile(dir + "/" + e.Name() + "/statistics/" + counter)
			value, _ := strconv.ParseUint(strings.TrimSpace(string(data)), 10, 64)
			return value
		}
		out = append(out, &agentproto.NetworkStats{
			Name:    e.Name(),
			RxBytes: read("rx_bytes"), RxPackets: read("rx_packets"), RxErrors: read("rx_errors"), RxDropped: read("rx_dropped"),
			TxBytes: read("tx_bytes"), TxPackets: read("tx_packets"), TxErrors: read("tx_errors"), TxDropped: read("tx_dropped"),
		})
	}
	return out
}
