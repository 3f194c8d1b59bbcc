package network

import (
	"errors"
	"net"
	"os"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"

	"github.com/katadirect/katadirect/pkg/agent/device"
	"github.com/katadirect/katadirect/pkg/agent/module"
	"github.com/katadirect/katadirect/pkg/agentproto"
)

const hardware = "02:11:22:33:44:55"

// inNamespace gives the test a network of its own, with one card in it.
func inNamespace(t *testing.T) *Network {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Fatal("network namespaces need root: run the tests as root")
	}
	// The thread ends with the test's goroutine, and the namespace with it.
	runtime.LockOSThread()
	own, err := netns.New()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { own.Close() })
	address, err := net.ParseMAC(hardware)
	if err != nil {
		t.Fatal(err)
	}
	card := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "card0", HardwareAddr: address}, PeerName: "peer0"}
	if err := netlink.LinkAdd(card); err != nil {
		t.Fatal(err)
	}
	// The card has a carrier when its other end is up.
	peer, err := netlink.LinkByName("peer0")
	if err == nil {
		err = netlink.LinkSetUp(peer)
	}
	if err != nil {
		t.Fatal(err)
	}
	modules, err := module.Open("/no/list/here")
	if err != nil {
		t.Fatal(err)
	}
	return &Network{Finder: &device.Finder{}, Modules: modules}
}

func address(ip, prefix string) *agentproto.IPAddress {
	f := agentproto.IPFamily_v4
	if strings.Contains(ip, ":") {
		f = agentproto.IPFamily_v6
	}
	return &agentproto.IPAddress{Family: f, Address: ip, Mask: prefix}
}

func TestInterfaceTakesNameMTUAndExactlyTheAddresses(t *testing.T) {
	n := inNamespace(t)
	want := &agentproto.Interface{
		Name: "eth0", HwAddr: strings.ToUpper(hardware), Mtu: 1400,
		IPAddresses: []*agentproto.IPAddress{address("10.1.2.3", "24"), address("10.1.2.9", "32"), address("fd00::3", "64")},
	}
	for range 2 { // Kata's shims send it again
		if err := n.UpdateInterface(t.Context(), want); err != nil {
			t.Fatal(err)
		}
	}
	want.IPAddresses = want.IPAddresses[:2]
	if err := n.UpdateInterface(t.Context(), want); err != nil {
		t.Fatal(err)
	}
	list, err := n.Interfaces()
	if err != nil {
		t.Fatal(err)
	}
	at := slices.IndexFunc(list, func(i *agentproto.Interface) bool { return i.Name == "eth0" })
	if at < 0 {
		t.Fatalf("no eth0 in %v", list)
	}
	got := list[at]
	var addresses []string
	for _, a := range got.IPAddresses {
		if !strings.HasPrefix(a.Address, "fe80") {
			addresses = append(addresses, a.Address+"/"+a.Mask)
		}
	}
	slices.Sort(addresses)
	if got.Name != "eth0" || got.Mtu != 1400 || got.HwAddr != hardware || got.RawFlags&1 == 0 ||
		!slices.Equal(addresses, []string{"10.1.2.3/24", "10.1.2.9/32"}) {
		t.Errorf("%+v with %q", got, addresses)
	}
}

func TestRoutesAreReplaced(t *testing.T) {
	n := inNamespace(t)
	err := n.UpdateInterface(t.Context(), &agentproto.Interface{
		Name: "eth0", HwAddr: hardware, IPAddresses: []*agentproto.IPAddress{address("10.1.2.3", "24"), address("fd00::3", "64")},
	})
	if err != nil {
		t.Fatal(err)
	}
	first := []*agentproto.Route{{Dest: "172.16.0.0/12", Gateway: "10.1.2.250", Device: "eth0"}}
	// The gateway's own route stands after the one that needs it.
	second := []*agentproto.Route{
		{Gateway: "169.254.1.1", Device: "eth0"},
		{Dest: "169.254.1.1/32", Device: "eth0", Scope: 253},
		{Gateway: "fd00::1", Device: "eth0", Family: agentproto.IPFamily_v6},
	}
	for _, routes := range [][]*agentproto.Route{first, second, second} {
		if err := n.UpdateRoutes(routes); err != nil {
			t.Fatal(err)
		}
	}
	have, err := n.Routes()
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, r := range have {
		if r.Gateway != "" || r.Dest == "169.254.1.1/32" {
			got = append(got, r.Dest+" via "+r.Gateway)
		}
	}
	slices.Sort(got)
	if want := []string{" via 169.254.1.1", " via fd00::1", "169.254.1.1/32 via "}; !slices.Equal(got, want) {
		t.Errorf("routes %q, want %q", got, want)
	}
	connected := slices.ContainsFunc(have, func(r *agentproto.Route) bool { return r.Dest == "10.1.2.0/24" })
	if !connected {
		t.Error("the kernel's own route is gone")
	}
}

func TestNeighbors(t *testing.T) {
	n := inNamespace(t)
	if err := n.UpdateInterface(t.Context(), &agentproto.Interface{Name: "eth0", HwAddr: hardware}); err != nil {
		t.Fatal(err)
	}
	neighbor := &agentproto.ARPNeighbor{ToIPAddress: address("10.1.2.1", ""), Device: "eth0", Lladdr: "02:00:00:00:00:09"}
	for range 2 {
		if err := n.AddNeighbors([]*agentproto.ARPNeighbor{neighbor}); err != nil {
			t.Fatal(err)
		}
	}
	link, err := netlink.LinkByName("eth0")
	if err != nil {
		t.Fatal(err)
	}
	have, err := netlink.NeighList(link.Attrs().Index, netlink.FAMILY_V4)
	if err != nil || len(have) != 1 || have[0].HardwareAddr.String() != neighbor.Lladdr || have[0].State != netlink.NUD_PERMANENT {
		t.Errorf("%+v, %v", have, err)
	}
}

func TestNetworkRequestsThatMakeNoSense(t *testing.T) {
	n := inNamespace(t)
	with := func(a *agentproto.IPAddress) *agentproto.Interface {
		return &agentproto.Interface{Name: "eth0", HwAddr: hardware, IPAddresses: []*agentproto.IPAddress{a}}
	}
	for _, tc := range []struct {
		i    *agentproto.Interface
		want error
	}{
		{nil, ErrRequest},
		{with(address("10.1.2", "24")), ErrRequest},
		{with(address("10.1.2.3", "33")), ErrRequest},
		{with(address("10.1.2.3", "")), ErrRequest},
		{with(address("fd00::1", "129")), ErrRequest},
		{&agentproto.Interface{Name: "eth0", HwAddr: "02:00:00:00:00:77"}, ErrNoLink},
		{&agentproto.Interface{Name: "eth7"}, ErrNoLink},
		{&agentproto.Interface{DevicePath: "nonsense"}, device.ErrAddress},
	} {
		if err := n.UpdateInterface(t.Context(), tc.i); !errors.Is(err, tc.want) {
			t.Errorf("%v: %v, want %v", tc.i, err, tc.want)
		}
	}
	if err := n.UpdateInterface(t.Context(), &agentproto.Interface{Name: "eth0", HwAddr: hardware}); err != nil {
		t.Fatal(err)
	}
	for _, r := range []*agentproto.Route{
		{Dest: "10.0.0.0/8", Device: "eth9"}, {Dest: "10.0.0.0", Device: "eth0"}, {Gateway: "x", Device: "eth0"}, {Source: "y", Device: "eth0"},
	} {
		if err := n.UpdateRoutes([]*agentproto.Route{r}); !errors.Is(err, ErrRequest) && !errors.Is(err, ErrNoLink) {
			t.Errorf("%v: %v", r, err)
		}
	}
	for _, a := range []*agentproto.ARPNeighbor{
		{Device: "eth9"}, {Device: "eth0"}, {Device: "eth0", ToIPAddress: address("10.1.2.1", ""), Lladdr: "zz"},
	} {
		if err := n.AddNeighbors([]*agentproto.ARPNeighbor{a}); !errors.Is(err, ErrRequest) && !errors.Is(err, ErrNoLink) {
			t.Errorf("%v: %v", a, err)
		}
	}
}
