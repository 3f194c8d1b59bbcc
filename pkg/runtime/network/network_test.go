package network

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// headerBytes is the virtio header before each frame of a tap.
const headerBytes = 10

// machine stands for QEMU: it reads and writes the frames of a card.
type machine struct {
	t   *testing.T
	tap *os.File
}

// await reads frames until one is wanted.
func (m machine) await(wanted func(frame []byte) bool) bool {
	m.t.Helper()
	buf := make([]byte, 4096)
	for end := time.Now().Add(10 * time.Second); time.Now().Before(end); {
		ready, err := unix.Poll([]unix.PollFd{{Fd: int32(m.tap.Fd()), Events: unix.POLLIN}}, 100)
		if err != nil && !errors.Is(err, unix.EINTR) {
			m.t.Fatal(err)
		}
		if ready <= 0 {
			continue
		}
		n, err := unix.Read(int(m.tap.Fd()), buf)
		if err != nil {
			m.t.Fatal(err)
		}
		if n > headerBytes && wanted(buf[headerBytes:n]) {
			return true
		}
	}
	return false
}

func (m machine) send(frame []byte) {
	m.t.Helper()
	if _, err := unix.Write(int(m.tap.Fd()), append(make([]byte, headerBytes), frame...)); err != nil {
		m.t.Fatal(err)
	}
}

// arp is an ARP packet in an Ethernet frame (RFC 826).
func arp(operation uint16, from net.HardwareAddr, fromIP net.IP, to net.HardwareAddr, toIP net.IP) []byte {
	frame := append(append([]byte{}, to...), from...)
	frame = binary.BigEndian.AppendUint16(frame, unix.ETH_P_ARP)
	frame = append(frame, 0, 1, 8, 0, 6, 4)
	frame = binary.BigEndian.AppendUint16(frame, operation)
	for _, part := range [][]byte{from, fromIP.To4(), to, toIP.To4()} {
		frame = append(frame, part...)
	}
	return frame
}

// TestFramesGoBothWaysAndPastTheNamespacesOwnNetwork: the other end asks who has the pod's address. The namespace, which
// has it too, must not answer; the machine is asked, and its answer arrives.
func TestFramesGoBothWaysAndPastTheNamespacesOwnNetwork(t *testing.T) {
	for _, kind := range []string{"veth", "macvlan"} {
		t.Run(kind, func(t *testing.T) {
			pod, host := newSpace(t), newSpace(t)
			var card netlink.Link
			if kind == "veth" {
				card = cable(pod, host, "eth0", "veth0")
			} else {
				host.add(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "veth0"}, PeerName: "lower"})
				host.must(host.LinkSetUp(host.link("lower")))
				host.must(host.LinkAdd(&netlink.Macvlan{Mode: netlink.MACVLAN_MODE_BRIDGE, LinkAttrs: netlink.LinkAttrs{
					Name: "eth0", ParentIndex: host.link("lower").Attrs().Index, Namespace: netlink.NsFd(pod.file.Fd())}}))
				card = pod.link("eth0")
				pod.must(pod.LinkSetUp(card))
			}
			pod.address(card, "10.5.0.2/24", 0)
			host.address(host.link("veth0"), "10.5.0.1/24", 0)
			n := mustOpen(pod)
			if len(n.NICs()) != 1 || !bytes.Equal(n.NICs()[0].MAC, card.Attrs().HardwareAddr) {
				t.Fatalf("cards %+v", n.NICs())
			}
			m := machine{t, n.NICs()[0].Taps[0]}
			mac, hostMAC := card.Attrs().HardwareAddr, host.link("veth0").Attrs().HardwareAddr
			ip, hostIP := net.IPv4(10, 5, 0, 2), net.IPv4(10, 5, 0, 1)

			host.must(host.do(func() error {
				conn, err := net.Dial("udp", "10.5.0.2:9")
				if err == nil {
					_, err = conn.Write([]byte("anybody?"))
					err = errors.Join(err, conn.Close())
				}
				return err
			}))
			asked := m.await(func(frame []byte) bool { return bytes.Contains(frame, arp(1, hostMAC, hostIP, nil, nil)[14:]) })
			if !asked {
				t.Fatal("the machine was not asked")
			}
			if state := host.neighbour(ip); state != nil {
				t.Fatalf("somebody else has answered: %v", state)
			}
			m.send(arp(2, mac, ip, hostMAC, hostIP))
			if !m.await(func(frame []byte) bool { return bytes.Contains(frame, []byte("anybody?")) }) {
				t.Error("the answer did not arrive, or the packet after it")
			}
			if state := host.neighbour(ip); !bytes.Equal(state, mac) {
				t.Errorf("the other end knows the pod as %v, want %v", state, mac)
			}
		})
	}
}

// neighbour is the hardware address that the namespace knows for ip.
func (s *space) neighbour(ip net.IP) net.HardwareAddr {
	s.t.Helper()
	all, err := s.NeighList(s.link("veth0").Attrs().Index, netlink.FAMILY_V4)
	s.must(err)
	for _, n := range all {
		if n.IP.Equal(ip) {
			return n.HardwareAddr
		}
	}
	return nil
}

func TestEveryWayOutLeavesTheNamespaceAsItWas(t *testing.T) {
	newPod := func(t *testing.T) *space {
		pod, host := newSpace(t), newSpace(t)
		cable(pod, host, "eth0", "veth0")
		cable(pod, host, "net1", "veth1")
		return pod
	}
	t.Run("close", func(t *testing.T) {
		pod := newPod(t)
		n := mustOpen(pod)
		if left := pod.left(); len(left) != 6 {
			t.Errorf("wired it has %q", left)
		}
		for range 2 {
			if err := n.Close(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		if left := pod.left(); len(left) > 0 {
			t.Errorf("left: %q", left)
		}
	})
	t.Run("close again after a failure", func(t *testing.T) {
		pod := newPod(t)
		n := mustOpen(pod)
		n.HandedOver()
		n.undo.Keep() // as if none of it had worked
		n.undo.Push("fail", func(context.Context) error { return errors.ErrUnsupported })
		if err := n.Close(t.Context()); !errors.Is(err, errors.ErrUnsupported) {
			t.Errorf("%v, want the failure", err)
		}
		if err := n.Close(t.Context()); err != nil {
			t.Error(err)
		}
		if left := pod.left(); len(left) > 0 {
			t.Errorf("left: %q", left)
		}
	})
	t.Run("clean up after a death", func(t *testing.T) {
		pod := newPod(t)
		n, recorded, err := open(pod)
		pod.must(err)
		n.HandedOver() // the last descriptor, as if the machine had died
		if left := strings.Join(pod.left(), " "); left != "ingress of eth0 ingress of net1" && left != "ingress of net1 ingress of eth0" {
			t.Errorf("after the death: %q", left)
		}
		for range 2 {
			if err := Cleanup(t.Context(), (*recorded)[0]); err != nil {
				t.Fatal(err)
			}
		}
		if left := pod.left(); len(left) > 0 {
			t.Errorf("left: %q", left)
		}
	})
	t.Run("another namespace that is at the path by now", func(t *testing.T) {
		pod, other := newPod(t), newPod(t)
		n, recorded, err := open(pod)
		pod.must(err)
		n.HandedOver()
		mustOpen(other)
		before := strings.Join(other.left(), " ")
		gone := (*recorded)[0]
		gone.Namespace = other.path()
		pod.must(Cleanup(t.Context(), gone))
		if left := strings.Join(other.left(), " "); left != before {
			t.Errorf("of another pod's %q is left %q", before, left)
		}
	})
	t.Run("a namespace used again without cleaning up", func(t *testing.T) {
		pod := newPod(t)
		mustOpen(pod).HandedOver()
		if n := mustOpen(pod); len(n.NICs()) != 2 {
			t.Errorf("cards %+v", n.NICs())
		}
	})
	t.Run("a failure half way", func(t *testing.T) {
		pod := newPod(t)
		pod.must(pod.QdiscAdd(&netlink.Ingress{QdiscAttrs: netlink.QdiscAttrs{ // somebody's own
			LinkIndex: pod.link("net1").Attrs().Index, Handle: netlink.MakeHandle(0xffff, 0), Parent: netlink.HANDLE_INGRESS}}))
		if _, _, err := open(pod); !errors.Is(err, ErrOccupied) || !strings.Contains(err.Error(), "net1") {
			t.Fatalf("%v, want ErrOccupied that names net1", err)
		}
		if left := strings.Join(pod.left(), " "); left != "ingress of net1" {
			t.Errorf("left %q, want only what was there", left)
		}
	})
}

func TestWhatIsNoNamespaceOfAPodIsRefused(t *testing.T) {
	for path, want := range map[string]error{
		"/no/such/file":                ErrNoNamespace,
		emptyFile(t):                   ErrNoNamespace,
		"/dev/null":                    ErrNoNamespace,
		"/proc/thread-self/ns/uts":     ErrNoNamespace,
		"/proc/self/ns/net":            ErrHostNetwork,
		fmt.Sprintf("/proc/%d", 1<<30): ErrNoNamespace,
	} {
		c := Config{Namespace: path, Model: TCFilter, Queues: 1, Log: slog.New(slog.DiscardHandler), Record: func(Remains) error { return nil }}
		if _, err := Open(t.Context(), c); !errors.Is(err, want) || !strings.Contains(err.Error(), path) {
			t.Errorf("%s: %v, want %v", path, err, want)
		}
		if err := Cleanup(context.Background(), Remains{Namespace: path}); err != nil {
			t.Errorf("clean up %s: %v", path, err)
		}
	}
}

func TestNoNetworkIsWiredWhereNoneIsWanted(t *testing.T) {
	pod, host := newSpace(t), newSpace(t)
	cable(pod, host, "eth0", "veth0")
	for _, c := range []Config{{Namespace: pod.path(), Model: None}, {Model: TCFilter}} {
		c.Log, c.Queues = slog.New(slog.DiscardHandler), 1
		n, err := Open(t.Context(), c)
		if err != nil || len(n.NICs()) > 0 {
			t.Errorf("%+v: %+v, %v", c, n, err)
			continue
		}
		if err := errors.Join(n.Configure(t.Context(), nil, nil), n.Close(t.Context())); err != nil {
			t.Error(err)
		}
	}
	if left := pod.left(); len(left) > 0 {
		t.Errorf("made: %q", left)
	}
}
