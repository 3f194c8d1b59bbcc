package network

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/katadirect/katadirect/internal/netns"
)

// space is a network namespace of a test's own.
type space struct {
	t *testing.T
	*namespace
	host *space // at the other end of a pod's cable
}

func newSpace(t *testing.T) *space {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Fatal("network namespaces need root: run the tests as root")
	}
	file, err := netns.New()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = file.Close() })
	n, err := openNamespace(fmt.Sprintf("/proc/self/fd/%d", file.Fd()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = n.close() })
	return &space{t: t, namespace: n}
}

func (s *space) path() string { return fmt.Sprintf("/proc/self/fd/%d", s.file.Fd()) }

func (s *space) must(err error) {
	s.t.Helper()
	if err != nil {
		s.t.Fatal(err)
	}
}

func (s *space) link(name string) netlink.Link {
	s.t.Helper()
	link, err := s.LinkByName(name)
	s.must(err)
	return link
}

func (s *space) add(link netlink.Link) netlink.Link {
	s.t.Helper()
	s.must(s.LinkAdd(link))
	made := s.link(link.Attrs().Name)
	s.must(s.LinkSetUp(made))
	return made
}

func (s *space) address(link netlink.Link, cidr string, flags int) {
	s.t.Helper()
	a, err := netlink.ParseAddr(cidr)
	s.must(err)
	if a.Flags = flags; a.IP.To4() == nil {
		a.Flags |= unix.IFA_F_NODAD
	}
	s.must(s.AddrAdd(link, a))
}

// cable puts an interface into the pod, whose other end is in the host.
func cable(pod, host *space, name, hostName string) netlink.Link {
	pod.t.Helper()
	pod.host = host
	link := pod.add(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: name, MTU: 1400}, PeerName: hostName, PeerNamespace: netlink.NsFd(host.file.Fd())})
	host.must(host.LinkSetUp(host.link(hostName)))
	return link
}

func cidr(text string) *net.IPNet {
	_, n, err := net.ParseCIDR(text)
	if err != nil {
		panic(err)
	}
	return n
}

// left lists what of ours is in the namespace: taps and queues.
func (s *space) left() (left []string) {
	s.t.Helper()
	links, err := s.LinkList()
	s.must(err)
	for _, link := range links {
		if strings.HasSuffix(link.Attrs().Name, tapSuffix) {
			left = append(left, link.Attrs().Name)
		}
		qdiscs, err := s.QdiscList(link)
		s.must(err)
		for _, q := range qdiscs {
			if q.Type() == "ingress" {
				left = append(left, "ingress of "+link.Attrs().Name)
			}
		}
	}
	return left
}

// open opens the pod's network; what it records is in the slice.
func open(pod *space) (*Network, *[]Remains, error) {
	var recorded []Remains
	n, err := Open(pod.t.Context(), Config{
		Namespace: pod.path(), Model: TCFilter, Queues: 1, Log: slog.New(slog.DiscardHandler),
		Record: func(r Remains) error { recorded = append(recorded, r); return nil },
	})
	if err == nil {
		pod.t.Cleanup(func() {
			if err := n.Close(context.Background()); err != nil {
				pod.t.Error(err)
			}
		})
	}
	return n, &recorded, err
}

func mustOpen(pod *space) *Network {
	pod.t.Helper()
	n, _, err := open(pod)
	pod.must(err)
	return n
}

func emptyFile(t *testing.T) string {
	path := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}
