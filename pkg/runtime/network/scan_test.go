package network

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/katadirect/katadirect/pkg/agentproto"
)

// agent notes what it is told. It does not find its links at once.
type agent struct {
	told    []string
	missing int // how often a link is not found yet
	fail    error
}

func (a *agent) UpdateInterface(_ context.Context, r *agentproto.UpdateInterfaceRequest) (*agentproto.Interface, error) {
	if a.missing--; a.missing >= 0 {
		return nil, errors.New("agent: UpdateInterface: Link not found (Address: x)")
	}
	i := r.GetInterface()
	line := fmt.Sprintf("interface %s mtu %d", i.Name, i.Mtu)
	for _, ip := range i.IPAddresses {
		line += fmt.Sprintf(" %s/%s", ip.Address, ip.Mask)
	}
	if i.RawFlags&unix.IFF_NOARP != 0 {
		line += " noarp"
	}
	if i.DevicePath != "" {
		line += " at " + i.DevicePath
	}
	a.told = append(a.told, line)
	// What a hostile guest says here is believed by nobody.
	return &agentproto.Interface{Name: strings.Repeat("x", 1<<16), HwAddr: "../../", Mtu: 1 << 63}, a.fail
}

func (a *agent) UpdateRoutes(_ context.Context, r *agentproto.UpdateRoutesRequest) (*agentproto.Routes, error) {
	for _, route := range r.GetRoutes().GetRoutes() {
		line := fmt.Sprintf("route %s via %s dev %s src %s", route.Dest, route.Gateway, route.Device, route.Source)
		if route.Flags != 0 {
			line += fmt.Sprintf(" flags %d", route.Flags)
		}
		if route.Mtu != 0 {
			line += fmt.Sprintf(" mtu %d", route.Mtu)
		}
		if route.Family == agentproto.IPFamily_v6 {
			line += " v6"
		}
		a.told = append(a.told, line)
	}
	return nil, a.fail
}

func (a *agent) AddARPNeighbors(_ context.Context, r *agentproto.AddARPNeighborsRequest) (*agentproto.Empty, error) {
	for _, n := range r.GetNeighbors().GetARPNeighbors() {
		a.told = append(a.told, fmt.Sprintf("neighbour %s %s dev %s state %d", n.ToIPAddress.Address, n.Lladdr, n.Device, n.State))
	}
	return nil, a.fail
}

func mac(last byte) net.HardwareAddr { return net.HardwareAddr{2, 0, 0, 0, 0, last} }

// TestTheGuestIsToldWhatThePluginsMade has a case for each way in which plugins set up a pod.
func TestTheGuestIsToldWhatThePluginsMade(t *testing.T) {
	for _, tc := range []struct {
		name  string
		plug  func(pod, host *space, eth0 netlink.Link)
		wants []string
	}{
		{"bridge: a subnet and its gateway", func(pod, _ *space, eth0 netlink.Link) {
			pod.address(eth0, "10.5.0.2/24", 0)
			pod.address(eth0, "fd05::2/64", 0)
			pod.must(pod.RouteAdd(&netlink.Route{LinkIndex: eth0.Attrs().Index, Gw: net.IPv4(10, 5, 0, 1)}))
			pod.must(pod.RouteAdd(&netlink.Route{LinkIndex: eth0.Attrs().Index, Gw: net.ParseIP("fd05::1")}))
		}, []string{
			"interface eth0 mtu 1400 10.5.0.2/24 fd05::2/64",
			"route  via 10.5.0.1 dev eth0 src ", "route  via fd05::1 dev eth0 src  v6",
		}},
		{"ptp: the subnet itself lies behind the gateway", func(pod, _ *space, eth0 netlink.Link) {
			index, gateway := eth0.Attrs().Index, net.IPv4(10, 5, 0, 1)
			pod.address(eth0, "10.5.0.2/24", 0)
			pod.must(pod.RouteDel(&netlink.Route{LinkIndex: index, Dst: cidr("10.5.0.0/24"), Scope: unix.RT_SCOPE_LINK}))
			pod.must(pod.RouteAdd(&netlink.Route{LinkIndex: index, Dst: cidr("10.5.0.1/32"), Scope: unix.RT_SCOPE_LINK, Src: net.IPv4(10, 5, 0, 2)}))
			pod.must(pod.RouteAdd(&netlink.Route{LinkIndex: index, Dst: cidr("10.5.0.0/24"), Gw: gateway, Src: net.IPv4(10, 5, 0, 2)}))
		}, []string{
			"interface eth0 mtu 1400 10.5.0.2/32",
			"route 10.5.0.0/24 via 10.5.0.1 dev eth0 src 10.5.0.2", "route 10.5.0.1/32 via  dev eth0 src 10.5.0.2",
		}},
		{"Calico: a gateway outside of every subnet", func(pod, _ *space, eth0 netlink.Link) {
			index, gateway := eth0.Attrs().Index, net.IPv4(169, 254, 1, 1)
			pod.address(eth0, "10.5.0.2/32", 0)
			pod.must(pod.RouteAdd(&netlink.Route{LinkIndex: index, Dst: cidr("169.254.1.1/32"), Scope: unix.RT_SCOPE_LINK}))
			pod.must(pod.RouteAdd(&netlink.Route{LinkIndex: index, Gw: gateway}))
			pod.must(pod.NeighAdd(&netlink.Neigh{LinkIndex: index, IP: gateway, HardwareAddr: mac(9), State: netlink.NUD_PERMANENT}))
			pod.must(pod.NeighAdd(&netlink.Neigh{LinkIndex: index, IP: net.IPv4(10, 5, 0, 77), HardwareAddr: mac(8), State: netlink.NUD_STALE}))
		}, []string{
			"interface eth0 mtu 1400 10.5.0.2/32",
			"neighbour 169.254.1.1 02:00:00:00:00:09 dev eth0 state 128",
			"route  via 169.254.1.1 dev eth0 src ", "route 169.254.1.1/32 via  dev eth0 src ",
		}},
		{"a gateway that is on the link by decree, and a route's own MTU", func(pod, _ *space, eth0 netlink.Link) {
			pod.address(eth0, "10.5.0.2/32", 0)
			pod.must(pod.RouteAdd(&netlink.Route{LinkIndex: eth0.Attrs().Index, Gw: net.IPv4(192, 0, 2, 1), Flags: unix.RTNH_F_ONLINK, MTU: 1280}))
		}, []string{"interface eth0 mtu 1400 10.5.0.2/32", "route  via 192.0.2.1 dev eth0 src  flags 4 mtu 1280"}},
		{"an address whose network is not on the link", func(pod, _ *space, eth0 netlink.Link) {
			pod.address(eth0, "10.5.0.2/24", unix.IFA_F_NOPREFIXROUTE)
		}, []string{"interface eth0 mtu 1400 10.5.0.2/32"}},
		{"a peer", func(pod, _ *space, eth0 netlink.Link) {
			a, err := netlink.ParseAddr("10.5.0.2/32")
			pod.must(err)
			a.Peer = cidr("10.9.0.1/32")
			pod.must(pod.AddrAdd(eth0, a))
		}, []string{"interface eth0 mtu 1400 10.5.0.2/32", "route 10.9.0.1/32 via  dev eth0 src 10.5.0.2"}},
		{"of two default routes the one that the kernel takes", func(pod, host *space, eth0 netlink.Link) {
			net1 := cable(pod, host, "net1", "veth1")
			pod.address(eth0, "10.5.0.2/24", 0)
			pod.address(net1, "10.6.0.2/24", 0)
			pod.must(pod.RouteAdd(&netlink.Route{LinkIndex: eth0.Attrs().Index, Gw: net.IPv4(10, 5, 0, 1), Priority: 200}))
			pod.must(pod.RouteAdd(&netlink.Route{LinkIndex: net1.Attrs().Index, Gw: net.IPv4(10, 6, 0, 1), Priority: 100}))
		}, []string{"interface eth0 mtu 1400 10.5.0.2/24", "interface net1 mtu 1400 10.6.0.2/24", "route  via 10.6.0.1 dev net1 src "}},
		{"an interface without addresses, and one without ARP", func(pod, host *space, eth0 netlink.Link) {
			net1 := cable(pod, host, "net1", "veth1")
			pod.must(pod.LinkSetARPOff(net1))
		}, []string{"interface eth0 mtu 1400", "interface net1 mtu 1400 noarp"}},
		{"two interfaces with one hardware address", func(pod, host *space, eth0 netlink.Link) {
			net1 := cable(pod, host, "net1", "veth1")
			for _, link := range []netlink.Link{eth0, net1} {
				pod.must(pod.LinkSetDown(link)) // its IPv6 address goes
				pod.must(pod.LinkSetHardwareAddr(link, mac(1)))
				pod.must(pod.LinkSetUp(link))
			}
		}, []string{"interface eth0 mtu 1400 at slot 0", "interface net1 mtu 1400 at slot 1"}},
		{"no routes that lead nowhere", func(pod, _ *space, eth0 netlink.Link) {
			pod.address(eth0, "10.5.0.2/24", 0)
			pod.must(pod.RouteAdd(&netlink.Route{Dst: cidr("10.99.0.0/16"), Type: unix.RTN_UNREACHABLE}))
			pod.must(pod.RouteAdd(&netlink.Route{LinkIndex: pod.link("lo").Attrs().Index, Dst: cidr("127.7.0.0/16"), Scope: unix.RT_SCOPE_LINK}))
		}, []string{"interface eth0 mtu 1400 10.5.0.2/24"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			pod, host := newSpace(t), newSpace(t)
			pod.must(pod.LinkSetUp(pod.link("lo")))
			tc.plug(pod, host, cable(pod, host, "eth0", "veth0"))
			a := &agent{missing: 3}
			err := mustOpen(pod).Configure(t.Context(), a, func(n int) string { return fmt.Sprint("slot ", n) })
			slices.Sort(a.told)
			if err != nil || !slices.Equal(a.told, tc.wants) {
				t.Errorf("%v\ntold\n %s\nwant\n %s", err, strings.Join(a.told, "\n "), strings.Join(tc.wants, "\n "))
			}
		})
	}
}

func TestAnAgentThatRefusesIsAnError(t *testing.T) {
	pod, host := newSpace(t), newSpace(t)
	eth0 := cable(pod, host, "eth0", "veth0")
	pod.address(eth0, "10.5.0.2/24", 0)
	n := mustOpen(pod)
	refusal := errors.New("no")
	if err := n.Configure(t.Context(), &agent{fail: refusal}, nil); !errors.Is(err, refusal) || !strings.Contains(err.Error(), "eth0") {
		t.Errorf("%v", err)
	}
	// A card that never comes is given up.
	if err := n.Configure(t.Context(), &agent{missing: 1 << 30}, nil); err == nil || !strings.Contains(err.Error(), notYet) {
		t.Errorf("%v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := n.Configure(ctx, &agent{missing: 1 << 30}, nil); !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
}

func TestWhatCannotGoIntoAMachineStaysOutsideAndIsNamed(t *testing.T) {
	pod, host := newSpace(t), newSpace(t)
	eth0 := cable(pod, host, "eth0", "veth0")
	bridge := pod.add(&netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "br0"}})
	port := cable(pod, host, "port0", "veth1")
	pod.must(pod.LinkSetMaster(port, bridge))
	pod.add(&netlink.Macvlan{Mode: netlink.MACVLAN_MODE_BRIDGE, LinkAttrs: netlink.LinkAttrs{Name: "on-eth0", ParentIndex: eth0.Attrs().Index}})
	pod.must(pod.do(func() error {
		return netlink.LinkAdd(&netlink.Tuntap{LinkAttrs: netlink.LinkAttrs{Name: "tun0"}, Mode: netlink.TUNTAP_MODE_TUN})
	}))
	pod.must(pod.LinkSetUp(pod.link("tun0")))
	pod.must(pod.LinkAdd(&netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "down0"}}))

	var said bytes.Buffer
	f, err := pod.scan(slog.New(slog.NewTextHandler(&said, nil)))
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, i := range f.interfaces {
		names = append(names, i.name)
	}
	if want := []string{"br0", "eth0"}; !slices.Equal(slices.Sorted(slices.Values(names)), want) {
		t.Errorf("found %q, want %q", names, want)
	}
	for _, name := range []string{"port0", "on-eth0", "tun0"} {
		if !strings.Contains(said.String(), "interface="+name) {
			t.Errorf("%s is not named:\n%s", name, &said)
		}
	}
	if n := strings.Count(said.String(), "\n"); n != 3 {
		t.Errorf("%d lines, want 3:\n%s", n, &said)
	}
}
