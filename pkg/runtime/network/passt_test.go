package network

import (
	"encoding/binary"
	"io"
	"log/slog"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/katadirect/katadirect/pkg/runtime/vm"
)

// newPasst opens a pod's network with passt; what it records last is in the second result.
func newPasst(t *testing.T) (*space, *Network, *Remains) {
	t.Helper()
	pod, host := newSpace(t), newSpace(t)
	cable(pod, host, "net1", "veth1")
	eth0 := cable(pod, host, "eth0", "veth0")
	pod.address(eth0, "10.5.0.2/24", 0)
	host.address(host.link("veth0"), "10.5.0.1/24", 0)
	pod.must(pod.RouteAdd(&netlink.Route{LinkIndex: eth0.Attrs().Index, Gw: net.IPv4(10, 5, 0, 1)}))
	var last Remains
	n, err := Open(t.Context(), Config{Namespace: pod.path(), Model: Passt, Log: slog.New(slog.DiscardHandler),
		Record: func(r Remains) error { last = r; return nil }})
	pod.must(err)
	t.Cleanup(func() {
		if err := n.Close(t.Context()); err != nil {
			t.Error(err)
		}
	})
	return pod, n, &last
}

func (n *Network) ended(t *testing.T) {
	t.Helper()
	select {
	case <-n.Done():
	case <-time.After(20 * time.Second):
		t.Fatal("passt does not end")
	}
}

func TestPasstRunsInThePodsNamespaceForTheInterfaceThatLeadsOut(t *testing.T) {
	pod, n, last := newPasst(t)
	if nics := n.NICs(); len(nics) != 1 || nics[0].Stream == nil || !slices.Equal(nics[0].MAC, pod.link("eth0").Attrs().HardwareAddr) {
		t.Fatalf("cards %+v", nics)
	}
	a := &agent{}
	pod.must(n.Configure(t.Context(), a, nil))
	if want := []string{"interface eth0 mtu 1400 10.5.0.2/24", "route  via 10.5.0.1 dev eth0 src "}; !slices.Equal(a.told, want) {
		t.Errorf("the guest was told %q, want %q", a.told, want)
	}
	if last.Passt.PID == 0 || last.Namespace != "" {
		t.Errorf("recorded %+v", *last)
	}
	select {
	case <-n.Done():
		t.Fatal(n.Err())
	default:
	}
	if left := pod.left(); len(left) > 0 {
		t.Errorf("it changed the namespace: %q", left)
	}
	n.HandedOver() // nobody else has the machine's end
	n.ended(t)
}

func TestAPasstIsEndedByALaterProcess(t *testing.T) {
	_, n, last := newPasst(t)
	for range 2 {
		if err := Cleanup(t.Context(), *last); err != nil {
			t.Fatal(err)
		}
	}
	n.ended(t)
	if err := n.Err(); !strings.Contains(err.Error(), "passt ended") {
		t.Error(err)
	}
}

func TestWhatPasstCannotDoIsSaidInItsOwnWords(t *testing.T) {
	pod, host := newSpace(t), newSpace(t)
	cable(pod, host, "eth0", "veth0") // without addresses
	n, err := Open(t.Context(), Config{Namespace: pod.path(), Model: Passt, Log: slog.New(slog.DiscardHandler),
		Record: func(Remains) error { return nil }})
	pod.must(err)
	defer n.Close(t.Context())
	n.ended(t)
	if err := n.Err(); !strings.Contains(err.Error(), "exit status") {
		t.Error(err)
	}
	t.Setenv("PATH", "/nonexistent")
	if _, err := Open(t.Context(), Config{Namespace: pod.path(), Model: Passt, Log: slog.New(slog.DiscardHandler)}); err == nil ||
		!strings.Contains(err.Error(), "Debian's package passt") {
		t.Errorf("without the program: %v", err)
	}
	if err := n.Configure(t.Context(), &agent{}, nil); err == nil || !strings.Contains(err.Error(), "passt ended") {
		t.Errorf("set up after its end: %v", err)
	}
}

// guestOf is a namespace whose network stands for a guest's: its card's frames go to and from the stream.
func guestOf(t *testing.T, nic vm.NIC) *space {
	t.Helper()
	guest := newSpace(t)
	card, err := guest.newTap(1)
	guest.must(err)
	link := guest.link(card.name)
	guest.must(guest.LinkSetHardwareAddr(link, nic.MAC))
	guest.must(guest.LinkSetUp(link))
	stream, err := net.FileConn(nic.Stream)
	guest.must(err)
	_ = nic.Stream.Close()
	go func() {
		frame := make([]byte, 1<<16)
		for {
			n, err := unix.Read(int(card.queues[0].Fd()), frame)
			if err != nil || n <= headerBytes {
				return
			}
			message := binary.BigEndian.AppendUint32(nil, uint32(n-headerBytes))
			if _, err := stream.Write(append(message, frame[headerBytes:n]...)); err != nil {
				return
			}
		}
	}()
	go func() {
		length := make([]byte, 4)
		for {
			if _, err := io.ReadFull(stream, length); err != nil {
				return
			}
			frame := make([]byte, headerBytes+int(binary.BigEndian.Uint32(length)))
			if _, err := io.ReadFull(stream, frame[headerBytes:]); err != nil {
				return
			}
			_, _ = unix.Write(int(card.queues[0].Fd()), frame)
		}
	}()
	t.Cleanup(func() { _ = stream.Close() })
	guest.address(link, "10.5.0.2/24", 0)
	guest.must(guest.RouteAdd(&netlink.Route{LinkIndex: link.Attrs().Index, Gw: net.IPv4(10, 5, 0, 1)}))
	return guest
}

// TestPasstSpeaksForTheGuest has the guest read its answer before it half-closes: a connection that is half-closed at
// once never ends with Debian 12's passt (docs/limitations.md).
func TestPasstSpeaksForTheGuest(t *testing.T) {
	pod, n, _ := newPasst(t)
	guest := guestOf(t, n.NICs()[0])
	echo(t, pod.host, "10.5.0.1:7001")
	conn, err := guest.dial("10.5.0.1:7001", 20*time.Second) // passt has only just been started
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := io.WriteString(conn, "hello"); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, 5)
	if _, err := io.ReadFull(conn, got); err != nil || string(got) != "hello" {
		t.Errorf("the answer is %q, %v", got, err)
	}
	_ = conn.CloseWrite()
	if rest, err := io.ReadAll(conn); err != nil || len(rest) > 0 {
		t.Errorf("the end is %q, %v", rest, err)
	}
	if _, err := guest.dial("10.5.0.1:7999", 3*time.Second); err == nil {
		t.Error("a closed port is open")
	}
	// What the guest sends to its gateway is not for the namespace's own loopback.
	pod.must(pod.LinkSetUp(pod.link("lo")))
	echo(t, pod, "127.0.0.1:7777")
	if _, err := guest.dial("10.5.0.1:7777", 3*time.Second); err == nil {
		t.Error("the guest reaches the loopback of the pod's namespace")
	}
}

// echo answers on the address with what it is sent.
func echo(t *testing.T, s *space, address string) {
	t.Helper()
	var l net.Listener
	s.must(s.do(func() (err error) { l, err = net.Listen("tcp", address); return err }))
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go func() { _, _ = io.Copy(conn, conn); _ = conn.Close() }()
		}
	}()
}

func (s *space) dial(address string, limit time.Duration) (conn *net.TCPConn, err error) {
	err = s.do(func() error {
		c, err := net.DialTimeout("tcp", address, limit)
		if err != nil {
			return err
		}
		conn = c.(*net.TCPConn)
		return conn.SetDeadline(time.Now().Add(20 * time.Second))
	})
	return conn, err
}
