package cluster

import (
	"context"
	"errors"
	"fmt"
	"net"

	"github.com/vishvananda/netlink"

	"github.com/katadirect/katadirect/internal/lab"
)

// linkName is the node's own interface, and what nodes are connected by.
const linkName = "node0"

// makeLink makes the node's interface, in its network.
func (n *node) makeLink() error {
	// A bridge: not every kernel has dummy interfaces, and another node can be connected to it.
	link := &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: linkName}}
	addr, err := netlink.ParseAddr(n.ip() + "/24")
	if err != nil {
		return err
	}
	_, services, err := net.ParseCIDR(serviceCIDR)
	if err != nil {
		return err
	}
	for _, step := range []func() error{
		func() error { return netlink.LinkAdd(link) },
		func() error { return netlink.AddrAdd(link, addr) },
		func() error { return netlink.LinkSetUp(link) },
		// kube-proxy gives what the node itself sends to a service another destination, but not before a route for
		// the service's own address has been found.
		func() error { return netlink.RouteAdd(&netlink.Route{LinkIndex: link.Index, Dst: services}) },
	} {
		if err := step(); err != nil {
			return err
		}
	}
	return nil
}

// connect lays a cable between two nodes, and tells each of them where the other's pods are.
func (n *node) connect(ctx context.Context, other *node) error {
	cable := fmt.Sprintf("to-%d-%d", n.index, other.index)
	err := n.lab.InNetwork(func() error {
		return netlink.LinkAdd(&netlink.Veth{
			LinkAttrs: netlink.LinkAttrs{Name: cable}, PeerName: cable, PeerNamespace: netlink.NsPid(other.lab.InitPID()),
		})
	})
	if err != nil {
		return fmt.Errorf("connect %s with %s: %w", n.name(), other.name(), err)
	}
	return errors.Join(n.plug(cable, other), other.plug(cable, n), ctx.Err())
}

// plug puts the cable's end into the node's bridge, and the way to the other's pods into its routes.
func (n *node) plug(cable string, other *node) error {
	err := n.lab.InNetwork(func() error {
		bridge, err := netlink.LinkByName(linkName)
		if err != nil {
			return err
		}
		end, err := netlink.LinkByName(cable)
		if err != nil {
			return err
		}
		_, pods, err := net.ParseCIDR(podCIDROf(other.index))
		if err != nil {
			return err
		}
		return errors.Join(netlink.LinkSetMaster(end, bridge), netlink.LinkSetUp(end),
			netlink.RouteAdd(&netlink.Route{LinkIndex: bridge.Attrs().Index, Dst: pods, Gw: net.ParseIP(other.ip())}))
	})
	if err != nil {
		return fmt.Errorf("connect %s with %s: %w", n.name(), other.name(), err)
	}
	return nil
}

// AddNode gives the cluster its second node, and returns when pods and volumes can be there. Its name is SecondNode.
func (c *Cluster) AddNode(ctx context.Context) error {
	if len(c.nodes) == maxNodes {
		return fmt.Errorf("the cluster has its %d nodes", maxNodes)
	}
	n, err := c.openNode(ctx, len(c.nodes))
	if err != nil {
		return err
	}
	for _, step := range []func(context.Context) error{
		n.prepare,
		func(ctx context.Context) error { return c.nodes[0].connect(ctx, n) },
		n.makePool, n.start,
		func(ctx context.Context) error { return c.waitReady(ctx, n) },
		n.label, c.DriverReady,
	} {
		if err := step(ctx); err != nil {
			return err
		}
	}
	return nil
}

// SecondNode is the name of the node that AddNode adds.
var SecondNode = nodeNameOf(1)

// Node is the lab of a node, or nil.
func (c *Cluster) Node(name string) *lab.Lab {
	for _, n := range c.nodes {
		if n.name() == name {
			return n.lab
		}
	}
	return nil
}
