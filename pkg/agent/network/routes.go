package network

import (
	"cmp"
	"errors"
	"fmt"
	"net"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/katadirect/katadirect/pkg/agentproto"
)

// UpdateRoutes replaces the routes that are not the kernel's own by those that
// are asked for.
func (n *Network) UpdateRoutes(wanted []*agentproto.Route) error {
	routes := make([]*netlink.Route, 0, len(wanted))
	for _, w := range wanted {
		route, err := parseRoute(w)
		if err != nil {
			return fmt.Errorf("update routes: %w", err)
		}
		routes = append(routes, route)
	}
	if err := removeRoutes(); err != nil {
		return fmt.Errorf("update routes: %w", err)
	}
	// A gateway must be reachable when the route through it is added.
	slices.SortStableFunc(routes, func(a, b *netlink.Route) int {
		return cmp.Compare(len(a.Gw), len(b.Gw))
	})
	for _, route := range routes {
		if err := netlink.RouteReplace(route); err != nil {
			return fmt.Errorf("update routes: add %s: %w", route, err)
		}
	}
	return nil
}

func removeRoutes() error {
	have, err := netlink.RouteList(nil, netlink.FAMILY_ALL)
	if err != nil {
		return err
	}
	for i := range have {
		if have[i].Protocol == unix.RTPROT_KERNEL {
			continue
		}
		if err := netlink.RouteDel(&have[i]); err != nil && !errors.Is(err, unix.ESRCH) {
			return fmt.Errorf("remove %s: %w", have[i], err)
		}
	}
	return nil
}

func parseRoute(w *agentproto.Route) (*netlink.Route, error) {
	link, err := netlink.LinkByName(w.GetDevice())
	if err != nil {
		return nil, fmt.Errorf("%w: %s: %w", ErrNoLink, w.GetDevice(), err)
	}
	route := &netlink.Route{
		LinkIndex: link.Attrs().Index, Scope: netlink.Scope(w.GetScope()), Flags: int(w.GetFlags()), MTU: int(w.GetMtu()),
	}
	if w.GetDest() != "" && w.GetDest() != "default" {
		if _, route.Dst, err = net.ParseCIDR(w.GetDest()); err != nil {
			return nil, fmt.Errorf("%w: route to %q: %w", ErrRequest, w.GetDest(), err)
		}
	} else if w.GetFamily() == agentproto.IPFamily_v6 {
		route.Dst = &net.IPNet{IP: net.IPv6zero, Mask: net.CIDRMask(0, 8*net.IPv6len)}
	} else {
		route.Dst = &net.IPNet{IP: net.IPv4zero, Mask: net.CIDRMask(0, 8*net.IPv4len)}
	}
	for _, field := range []struct {
		text string
		to   *net.IP
	}{{w.GetGateway(), &route.Gw}, {w.GetSource(), &route.Src}} {
		if field.text == "" {
			continue
		}
		if *field.to = net.ParseIP(field.text); *field.to == nil {
			return nil, fmt.Errorf("%w: route by %q", ErrRequest, field.text)
		}
	}
	return route, nil
}

// Routes lists the routes of all interfaces but loopback.
func (n *Network) Routes() ([]*agentproto.Route, error) {
	have, err := netlink.RouteList(nil, netlink.FAMILY_ALL)
	if err != nil {
		return nil, fmt.Errorf("list routes: %w", err)
	}
	var out []*agentproto.Route
	for _, r := range have {
		link, err := netlink.LinkByIndex(r.LinkIndex)
		if err != nil || link.Attrs().Flags&net.FlagLoopback != 0 {
			continue
		}
		entry := &agentproto.Route{
			Device: link.Attrs().Name, Scope: uint32(r.Scope), Flags: uint32(r.Flags), Mtu: uint32(r.MTU),
		}
		if r.Family == netlink.FAMILY_V6 {
			entry.Family = agentproto.IPFamily_v6
		}
		if ones, _ := maskSize(r.Dst); ones > 0 {
			entry.Dest = r.Dst.String()
		}
		if r.Gw != nil {
			entry.Gateway = r.Gw.String()
		}
		if r.Src != nil {
			entry.Source = r.Src.String()
		}
		out = append(out, entry)
	}
	return out, nil
}

func maskSize(n *net.IPNet) (ones, bits int) {
	if n == nil {
		return 0, 0
	}
	return n.Mask.Size()
}
