package network

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/katadirect/katadirect/pkg/agentproto"
)

// Agent is what of the guest's agent is needed here.
type Agent interface {
	UpdateInterface(context.Context, *agentproto.UpdateInterfaceRequest) (*agentproto.Interface, error)
	UpdateRoutes(context.Context, *agentproto.UpdateRoutesRequest) (*agentproto.Routes, error)
	AddARPNeighbors(context.Context, *agentproto.AddARPNeighborsRequest) (*agentproto.Empty, error)
}

// The guest's kernel finds a card a moment after the agent answers. Kata's shim asks as often.
const (
	linkTries = 20
	linkPause = 20 * time.Millisecond
	notYet    = "Link not found"
)

// Configure tells the agent what its cards are. cardPath is where the guest finds the n-th of NICs. What the agent
// answers is not looked at, except whether it is an error: it knows nothing that the host would have to believe.
func (n *Network) Configure(ctx context.Context, agent Agent, cardPath func(n int) string) error {
	select {
	case <-n.Done(): // one that cannot serve the pod says so long before the guest is up
		return n.Err()
	default:
	}
	for at, i := range n.found.interfaces {
		message := i.message()
		if n.shared(i.mac) {
			message.DevicePath = cardPath(at)
		}
		if err := updateInterface(ctx, agent, message); err != nil {
			return fmt.Errorf("interface %s: %w", i.name, err)
		}
	}
	if routes := n.found.routeMessages(); len(routes) > 0 {
		_, err := agent.UpdateRoutes(ctx, &agentproto.UpdateRoutesRequest{Routes: &agentproto.Routes{Routes: routes}})
		if err != nil {
			return fmt.Errorf("routes: %w", err)
		}
	}
	if neighbours := n.found.neighbourMessages(); len(neighbours) > 0 {
		_, err := agent.AddARPNeighbors(ctx, &agentproto.AddARPNeighborsRequest{
			Neighbors: &agentproto.ARPNeighbors{ARPNeighbors: neighbours}})
		if err != nil {
			return fmt.Errorf("neighbours: %w", err)
		}
	}
	return nil
}

// shared says whether several interfaces have the hardware address, as ipvlan's do. A guest that is told no path
// goes by that address alone.
func (n *Network) shared(mac net.HardwareAddr) bool {
	count := 0
	for _, i := range n.found.interfaces {
		if slices.Equal(i.mac, mac) {
			count++
		}
	}
	return count > 1
}

func updateInterface(ctx context.Context, agent Agent, message *agentproto.Interface) (err error) {
	for range linkTries {
		_, err = agent.UpdateInterface(ctx, &agentproto.UpdateInterfaceRequest{Interface: message})
		if err == nil || !strings.Contains(err.Error(), notYet) {
			return err
		}
		select {
		case <-time.After(linkPause):
		case <-ctx.Done():
			return errors.Join(err, context.Cause(ctx))
		}
	}
	return err
}

func (i iface) message() *agentproto.Interface {
	m := &agentproto.Interface{
		Device: i.name, Name: i.name, Mtu: uint64(i.mtu), HwAddr: i.mac.String(), Type: i.kind,
	}
	if !i.arp {
		m.RawFlags = unix.IFF_NOARP
	}
	for _, a := range i.addresses {
		m.IPAddresses = append(m.IPAddresses, ipAddress(a.IP, a.prefix()))
	}
	return m
}

// prefix is the address's prefix length; of one whose network is not on the link, the whole address, or the guest's
// kernel would put the network there.
func (a address) prefix() string {
	ones, bits := a.Mask.Size()
	if !a.onLink {
		ones = bits
	}
	return strconv.Itoa(ones)
}

func ipAddress(ip net.IP, prefix string) *agentproto.IPAddress {
	return &agentproto.IPAddress{Family: family(ip), Address: ip.String(), Mask: prefix}
}

func family(ip net.IP) agentproto.IPFamily {
	if ip.To4() == nil {
		return agentproto.IPFamily_v6
	}
	return agentproto.IPFamily_v4
}

func (f found) routeMessages() []*agentproto.Route {
	var messages []*agentproto.Route
	for _, r := range f.routes {
		i, _ := f.byIndex(r.LinkIndex)
		m := &agentproto.Route{
			Device: i.name, Scope: uint32(r.Scope), Mtu: uint32(r.MTU), Flags: uint32(r.Flags & unix.RTNH_F_ONLINK),
		}
		if r.Family == netlink.FAMILY_V6 {
			m.Family = agentproto.IPFamily_v6
		}
		if !isDefault(r.Dst) {
			m.Dest = r.Dst.String()
		}
		if r.Gw != nil {
			m.Gateway = r.Gw.String()
		}
		if r.Src != nil {
			m.Source = r.Src.String()
		}
		messages = append(messages, m)
	}
	return messages
}

func (f found) neighbourMessages() []*agentproto.ARPNeighbor {
	var messages []*agentproto.ARPNeighbor
	for _, n := range f.neighbours {
		i, _ := f.byIndex(n.LinkIndex)
		messages = append(messages, &agentproto.ARPNeighbor{
			ToIPAddress: ipAddress(n.IP, ""), Device: i.name, Lladdr: n.HardwareAddr.String(),
			State: int32(n.State), Flags: int32(n.Flags),
		})
	}
	return messages
}
