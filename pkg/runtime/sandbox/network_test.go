package sandbox

import (
	"context"
	"fmt"
	"net"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
	"github.com/vishvananda/netlink"
	vnetns "github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/katadirect/katadirect/internal/netns"
	"github.com/katadirect/katadirect/pkg/agentproto"
	"github.com/katadirect/katadirect/pkg/runtime/qemu"
	"github.com/katadirect/katadirect/pkg/runtime/vm"
)

func (a *agent) UpdateInterface(_ context.Context, r *agentproto.UpdateInterfaceRequest) (*agentproto.Interface, error) {
	return &agentproto.Interface{}, a.call("UpdateInterface", r.GetInterface().GetName())
}

func (a *agent) UpdateRoutes(_ context.Context, r *agentproto.UpdateRoutesRequest) (*agentproto.Routes, error) {
	return &agentproto.Routes{}, a.call("UpdateRoutes", fmt.Sprint(len(r.GetRoutes().GetRoutes())))
}

// podNetwork gives the sandbox a network namespace with one interface, and returns it.
func (h *host) podNetwork() *netlink.Handle {
	h.t.Helper()
	file, err := netns.New()
	if err != nil {
		h.t.Fatal(err)
	}
	h.t.Cleanup(func() { _ = file.Close() })
	links, err := netlink.NewHandleAt(vnetns.NsHandle(file.Fd()), unix.NETLINK_ROUTE)
	if err != nil {
		h.t.Fatal(err)
	}
	h.t.Cleanup(links.Close)
	check := func(err error) {
		h.t.Helper()
		if err != nil {
			h.t.Fatal(err)
		}
	}
	check(links.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "eth0"}, PeerName: "far0"}))
	eth0, err := links.LinkByName("eth0")
	check(err)
	check(links.LinkSetUp(eth0))
	check(links.AddrAdd(eth0, &netlink.Addr{IPNet: &net.IPNet{IP: net.IPv4(10, 5, 0, 2), Mask: net.CIDRMask(24, 32)}}))
	h.options.Spec.Linux = &specs.Linux{Namespaces: []specs.LinuxNamespace{{
		Type: specs.NetworkNamespace, Path: fmt.Sprintf("/proc/self/fd/%d", file.Fd())}}}
	return links
}

// wired lists what a sandbox makes in a namespace.
func wired(t *testing.T, links *netlink.Handle) (found []string) {
	t.Helper()
	all, err := links.LinkList()
	if err != nil {
		t.Fatal(err)
	}
	for _, link := range all {
		if link.Type() == "tuntap" {
			found = append(found, link.Attrs().Name)
		}
		qdiscs, err := links.QdiscList(link)
		if err != nil {
			t.Fatal(err)
		}
		for _, q := range qdiscs {
			if q.Type() == "ingress" {
				found = append(found, "ingress of "+link.Attrs().Name)
			}
		}
	}
	return found
}

func TestTheNetworkIsThereBeforeTheGuestsSandboxAndGoesWithIt(t *testing.T) {
	h := newHost(t)
	links := h.podNetwork()
	var got qemu.Config
	h.options.newMachine = func(c qemu.Config) vm.Machine { got = c; return h.machine }
	s := h.create()
	if len(got.NICs) != 1 || got.Namespace == nil {
		t.Errorf("the machine has cards %v in namespace %v", got.NICs, got.Namespace)
	}
	if _, err := got.NICs[0].Taps[0].Stat(); err == nil {
		t.Error("this process still has the tap open: it would outlive the machine")
	}
	h.agent.mu.Lock()
	calls := slices.Clone(h.agent.calls)
	h.agent.mu.Unlock()
	first, then := slices.Index(calls, "UpdateInterface eth0"), slices.Index(calls, "CreateSandbox")
	if first < 0 || then < first {
		t.Errorf("the agent was called in the order %q", calls)
	}
	// The fake machine has not kept the tap, so it has gone; the queue stays until the end.
	if found := wired(t, links); !slices.Equal(found, []string{"ingress of eth0"}) {
		t.Errorf("the namespace has %q", found)
	}
	if err := s.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	if found := wired(t, links); len(found) > 0 {
		t.Errorf("left in the namespace: %q", found)
	}
	h.nothingLeft()
}

func TestANetworkThatFailsOnTheWayUpIsUndone(t *testing.T) {
	for name, tc := range map[string]struct {
		before func(*host)
		says   string
	}{
		"a machine that does not start": {func(h *host) { h.machine.failStart = errInjected }, "start the virtual machine"},
		"a guest that refuses its card": {func(h *host) { h.agent.failWith("UpdateInterface", errInjected) }, "set up the network in the guest: interface eth0"},
		"a namespace that is gone":      {func(h *host) { h.options.Spec.Linux.Namespaces[0].Path = "/no/such/namespace" }, "/no/such/namespace"},
		"the host's own network":        {func(h *host) { h.options.Spec.Linux.Namespaces[0].Path = "/proc/thread-self/ns/net" }, "host networking"},
		"a model that is not there":     {func(h *host) { h.options.Config.Runtime.NetworkModel = "macvtap" }, "macvtap"},
	} {
		t.Run(name, func(t *testing.T) {
			h := newHost(t)
			links := h.podNetwork()
			tc.before(h)
			if _, err := Create(t.Context(), h.options); err == nil || !strings.Contains(err.Error(), tc.says) {
				t.Errorf("%v, want an error that says %q", err, tc.says)
			}
			if found := wired(t, links); len(found) > 0 {
				t.Errorf("left in the namespace: %q", found)
			}
			h.nothingLeft()
		})
	}
}

func TestWhatADeadShimLeftInTheNamespaceIsCleanedUp(t *testing.T) {
	h := newHost(t)
	links := h.podNetwork()
	s := h.create()
	state, err := os.ReadFile(h.roots.stateFile("s1"))
	if err != nil {
		t.Fatal(err)
	}
	left, err := readRemains(h.roots.stateFile("s1"))
	if err != nil || left.Network.Namespace != h.options.Spec.Linux.Namespaces[0].Path {
		t.Fatalf("recorded %s, %v", state, err)
	}
	if err := s.lease.Close(); err != nil { // as the kernel does it when the shim dies
		t.Fatal(err)
	}
	for range 2 {
		if err := Cleanup(t.Context(), "s1", h.roots); err != nil {
			t.Fatal(err)
		}
	}
	if found := wired(t, links); len(found) > 0 {
		t.Errorf("left in the namespace: %q", found)
	}
}
