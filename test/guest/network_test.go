package guest_test

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"github.com/vishvananda/netlink"
	vnetns "github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/katadirect/katadirect/internal/netns"
	"github.com/katadirect/katadirect/pkg/agentproto"
	"github.com/katadirect/katadirect/pkg/runtime/network"
	"github.com/katadirect/katadirect/pkg/runtime/qemu"
)

// space is a network namespace of a test's own.
type space struct {
	t    *testing.T
	file *os.File
	*netlink.Handle
}

func newSpace(t *testing.T) *space {
	t.Helper()
	s := &space{t: t}
	var err error
	if s.file, err = netns.New(); err == nil {
		t.Cleanup(func() { _ = s.file.Close() })
		s.Handle, err = netlink.NewHandleAt(vnetns.NsHandle(s.file.Fd()), unix.NETLINK_ROUTE)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Handle.Close)
	s.up("lo")
	return s
}

// path is how the shim is told of it.
func (s *space) path() string { return fmt.Sprintf("/proc/self/fd/%d", s.file.Fd()) }

// do runs f on a thread in the namespace: sockets it makes belong there.
func (s *space) do(f func() error) {
	s.t.Helper()
	if err := netns.Do(s.file, f); err != nil {
		s.t.Fatal(err)
	}
}

func (s *space) link(name string) netlink.Link {
	s.t.Helper()
	link, err := s.LinkByName(name)
	if err != nil {
		s.t.Fatalf("%s: %v", name, err)
	}
	return link
}

func (s *space) up(name string) { s.must(s.LinkSetUp(s.link(name))) }

func (s *space) must(err error) {
	s.t.Helper()
	if err != nil {
		s.t.Fatal(err)
	}
}

// address gives the interface an address that is usable at once.
func (s *space) address(name, cidr string) {
	s.t.Helper()
	a, err := netlink.ParseAddr(cidr)
	s.must(err)
	if a.IP.To4() == nil {
		a.Flags = unix.IFA_F_NODAD
	}
	s.must(s.AddrAdd(s.link(name), a))
}

// cable connects an interface of the pod's with one in the host's namespace, as the bridge and ptp plugins do it.
func cable(t *testing.T, pod *space, name string, host *space, hostName string, mtu int) {
	t.Helper()
	veth := &netlink.Veth{
		LinkAttrs: netlink.LinkAttrs{Name: name, MTU: mtu}, PeerName: hostName, PeerNamespace: netlink.NsFd(host.file.Fd())}
	pod.must(pod.LinkAdd(veth))
	host.must(host.LinkSetMTU(host.link(hostName), mtu))
	pod.up(name)
	host.up(hostName)
}

// join boots a machine on the pod's network, with a sandbox in it, as the shim does it.
func join(t *testing.T, pod *space, model network.Model, c qemu.Config, queues int) *machine {
	t.Helper()
	n, err := network.Open(t.Context(), network.Config{
		Namespace: pod.path(), Model: model, Queues: queues, Log: slog.New(slog.DiscardHandler),
		Record: func(network.Remains) error { return nil },
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := n.Close(context.Background()); err != nil {
			t.Error(err)
		}
	})
	c.NICs, c.Namespace = n.NICs(), n.Namespace()
	m := newMachine(t, c)
	n.HandedOver()
	if err := n.Configure(t.Context(), m.agent, qemu.NICPath); err != nil {
		t.Fatal(err)
	}
	if err := m.createSandbox(t.Context()); err != nil {
		t.Fatal(err)
	}
	return m
}

// networked is a container that may use raw sockets, for ping.
func (m *machine) networked(t *testing.T) *containerIn {
	t.Helper()
	s := spec("exec sleep 1000000")
	allowRaw(s.Process.Capabilities)
	return m.create(t, s).start()
}

func allowRaw(c *specs.LinuxCapabilities) {
	for _, set := range []*[]string{&c.Bounding, &c.Effective, &c.Permitted} {
		*set = append(slices.Clone(*set), "CAP_NET_RAW")
	}
}

// ping sends one packet, which must be answered.
func (c *containerIn) ping(arguments string) {
	c.t.Helper()
	id, process := newID("exec"), spec("ping -c 1 -w 10 "+arguments).Process
	allowRaw(process.Capabilities)
	c.exec(id, process)
	if out, status := c.finish(id); status != 0 {
		c.t.Errorf("ping %s: status %d\n%s", arguments, status, out)
	}
}

// listen answers every connection with what it sends, until its end.
func (s *space) listen(address string) {
	s.t.Helper()
	var l net.Listener
	s.do(func() (err error) { l, err = net.Listen("tcp", address); return err })
	s.t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				_, _ = io.Copy(conn, conn)
				_ = conn.Close()
			}()
		}
	}()
}

// try connects from the namespace, once.
func (s *space) try(address string) error {
	return netns.Do(s.file, func() error {
		conn, err := net.DialTimeout("tcp", address, 10*time.Second)
		if err == nil {
			err = conn.Close()
		}
		return err
	})
}

// dial connects from the namespace; it waits for a server that is about to listen.
func (s *space) dial(address string) net.Conn {
	s.t.Helper()
	for begin := time.Now(); ; time.Sleep(50 * time.Millisecond) {
		var conn net.Conn
		var err error
		s.do(func() error {
			conn, err = net.DialTimeout("tcp", address, 10*time.Second)
			return nil
		})
		if err == nil {
			s.t.Cleanup(func() { _ = conn.Close() })
			return conn
		}
		if !errors.Is(err, unix.ECONNREFUSED) || time.Since(begin) > patience {
			s.t.Fatal(err)
		}
	}
}

// simplePod is a pod with one interface, whose gateway is the host.
func simplePod(t *testing.T) (pod, host *space) {
	t.Helper()
	pod, host = newSpace(t), newSpace(t)
	cable(t, pod, "eth0", host, "veth0", 1500)
	pod.address("eth0", "10.5.0.2/24")
	host.address("veth0", "10.5.0.1/24")
	pod.must(pod.RouteAdd(&netlink.Route{LinkIndex: pod.link("eth0").Attrs().Index, Gw: net.IPv4(10, 5, 0, 1)}))
	return pod, host
}

func TestPasstCarriesWhatAMachineAsksFor(t *testing.T) {
	pod, host := simplePod(t)
	m := join(t, pod, network.Passt, qemu.Config{}, 1)
	c := m.networked(t)
	host.listen("10.5.0.1:7001")
	if got := c.must("(echo hello; sleep 10) | nc -w 20 10.5.0.1 7001"); got != "hello" {
		t.Errorf("answered %q", got)
	}
	bulk(t, c, host, "10.5.0.1:9002", 32<<20)
}

// TestAGuestThatFloodsHurtsItselfAlone: a machine that sends as much as it can, in other names than its own, and with
// two queues. The host's side stays in the pod's own cable, and the shim's calls still get through.
func TestAGuestThatFloodsHurtsItselfAlone(t *testing.T) {
	pod, host := simplePod(t)
	m := join(t, pod, network.TCFilter, qemu.Config{VCPUs: 2}, 2)
	c := m.networked(t)
	if queues := c.must("ls /sys/class/net/eth0/queues"); !strings.Contains(queues, "tx-1") {
		t.Errorf("the card has one queue only: %q", queues)
	}
	flood := newID("exec")
	c.exec(flood, spec("timeout 8 sh -c 'yes | nc -u 10.5.0.1 9; yes | nc -u 10.5.0.77 9' & timeout 8 sh -c 'yes | nc -u 10.5.0.1 10'").Process)
	host.listen("10.5.0.1:7001")
	answered := 0
	for end := time.Now().Add(8 * time.Second); time.Now().Before(end); {
		if _, err := m.agent.GetGuestDetails(t.Context(), &agentproto.GuestDetailsRequest{}); err != nil {
			t.Fatal(err)
		}
		answered++
	}
	t.Logf("the agent answered %d times during the flood", answered)
	c.finish(flood)
	if got := c.must("echo hello | nc -w 20 10.5.0.1 7001"); got != "hello" {
		t.Errorf("after the flood the host answered %q", got)
	}
	// Frames of the guest's that the namespace's own network would act upon do not get there.
	links, err := pod.NeighList(pod.link("eth0").Attrs().Index, netlink.FAMILY_V4)
	if err != nil || len(links) > 0 {
		t.Errorf("the namespace's own network has heard of %v, %v", links, err)
	}
}

func TestAPodsInterfacesReachTheMachineAsTheyAre(t *testing.T) {
	pod, host := newSpace(t), newSpace(t)
	cable(t, pod, "eth0", host, "veth0", 1400)
	cable(t, pod, "net1", host, "veth1", 9000)
	pod.address("eth0", "10.5.0.2/24")
	pod.address("eth0", "10.5.0.3/32")
	pod.address("eth0", "fd05::2/64")
	pod.address("net1", "10.6.0.2/16")
	pod.address("net1", "fd06::2/64")
	host.address("veth0", "10.5.0.1/24")
	host.address("veth0", "fd05::1/64")
	host.address("veth0", "192.0.2.1/32") // behind the default route
	host.address("veth1", "10.6.0.1/16")
	host.address("veth1", "fd06::1/64")
	eth0, net1 := pod.link("eth0").Attrs().Index, pod.link("net1").Attrs().Index
	pod.must(pod.RouteAdd(&netlink.Route{LinkIndex: eth0, Gw: net.IPv4(10, 5, 0, 1)}))
	pod.must(pod.RouteAdd(&netlink.Route{LinkIndex: eth0, Gw: net.ParseIP("fd05::1")}))
	_, far, _ := net.ParseCIDR("172.31.0.0/16")
	pod.must(pod.RouteAdd(&netlink.Route{LinkIndex: net1, Dst: far, Gw: net.IPv4(169, 254, 1, 1), Flags: unix.RTNH_F_ONLINK, Src: net.IPv4(10, 6, 0, 2)}))
	mac, _ := net.ParseMAC("02:00:00:00:be:ef")
	pod.must(pod.NeighAdd(&netlink.Neigh{LinkIndex: net1, IP: net.IPv4(169, 254, 1, 1), HardwareAddr: mac, State: netlink.NUD_PERMANENT}))

	m := join(t, pod, network.TCFilter, qemu.Config{}, 1)
	c := m.networked(t)

	t.Run("addresses, MTU and hardware address", func(t *testing.T) {
		links := c.must("ip addr")
		// The kernel says a moment after the card is up that it has a carrier.
		for end := time.Now().Add(patience); strings.Contains(links, "NO-CARRIER") && time.Now().Before(end); {
			time.Sleep(50 * time.Millisecond)
			links = c.must("ip addr")
		}
		for _, want := range []string{
			"eth0: <BROADCAST,MULTICAST,UP,LOWER_UP> mtu 1400", "net1: <BROADCAST,MULTICAST,UP,LOWER_UP> mtu 9000",
			pod.link("eth0").Attrs().HardwareAddr.String(), pod.link("net1").Attrs().HardwareAddr.String(),
			"inet 10.5.0.2/24", "inet 10.5.0.3/32", "inet6 fd05::2/64", "inet 10.6.0.2/16", "inet6 fd06::2/64",
		} {
			if !strings.Contains(links, want) {
				t.Errorf("the guest has no %q:\n%s", want, links)
			}
		}
		if strings.Contains(links, "tentative") {
			t.Errorf("an address cannot be used yet:\n%s", links)
		}
	})
	t.Run("routes and neighbours", func(t *testing.T) {
		routes := c.must("ip route; ip -6 route; ip neigh")
		for _, want := range []string{
			"default via 10.5.0.1 dev eth0", "default via fd05::1 dev eth0", "10.5.0.0/24 dev eth0", "fd06::/64 dev net1",
			"172.31.0.0/16 via 169.254.1.1 dev net1", "src 10.6.0.2", "169.254.1.1 dev net1 lladdr 02:00:00:00:be:ef",
		} {
			if !strings.Contains(routes, want) {
				t.Errorf("the guest has no %q:\n%s", want, routes)
			}
		}
		listed, err := m.agent.ListRoutes(t.Context(), &agentproto.ListRoutesRequest{})
		if err != nil {
			t.Fatal(err)
		}
		for _, want := range []*agentproto.Route{
			{Device: "eth0", Gateway: "10.5.0.1"},
			{Device: "eth0", Gateway: "fd05::1", Family: agentproto.IPFamily_v6},
			{Device: "net1", Gateway: "169.254.1.1", Dest: "172.31.0.0/16", Source: "10.6.0.2"},
		} {
			if !slices.ContainsFunc(listed.GetRoutes(), func(r *agentproto.Route) bool {
				return r.GetDevice() == want.Device && r.GetGateway() == want.Gateway && r.GetDest() == want.Dest &&
					r.GetSource() == want.Source && r.GetFamily() == want.Family
			}) {
				t.Errorf("the agent lists no %v:\n%v", want, listed)
			}
		}
	})
	t.Run("from the guest", func(t *testing.T) {
		host.listen("10.5.0.1:7001")
		host.listen("[fd05::1]:7002")
		host.listen("192.0.2.1:7003")
		host.listen("[fd06::1]:7004")
		for _, to := range []string{"10.5.0.1 7001", "fd05::1 7002", "192.0.2.1 7003", "fd06::1 7004"} {
			if got := c.must("echo hello | nc -w 10 " + to); got != "hello" {
				t.Errorf("%s answered %q", to, got)
			}
		}
		for _, to := range []string{"10.5.0.1", "fd05::1", "10.6.0.1", "fd06::1"} {
			c.ping(to)
		}
		// A packet as large as the MTU, which must not be cut.
		c.ping("-s 8972 10.6.0.1")
		if out, status := c.run("nc -w 5 10.5.0.1 7999 </dev/null"); status == 0 || !strings.Contains(out, "refused") {
			t.Errorf("a closed port: status %d, %q", status, out)
		}
	})
	t.Run("from the host", func(t *testing.T) {
		for _, to := range []string{"10.5.0.2:8001", "10.5.0.3:8002", "[fd05::2]:8003", "10.6.0.2:8004"} {
			_, port, _ := net.SplitHostPort(to)
			server := newID("exec")
			c.exec(server, spec("nc -l -p "+port+" -e cat").Process)
			conn := host.dial(to)
			if _, err := io.WriteString(conn, "hello"); err != nil {
				t.Fatal(err)
			}
			buf := make([]byte, 5)
			if _, err := io.ReadFull(conn, buf); err != nil || string(buf) != "hello" {
				t.Errorf("%s answered %q, %v", to, buf, err)
			}
			_ = conn.Close()
			c.finish(server)
		}
	})
	t.Run("much", func(t *testing.T) { muchData(t, host, c) })
}

// muchData sends a large file each way and compares sums.
func muchData(t *testing.T, host *space, c *containerIn) {
	const size = 16 << 20
	server := newID("exec")
	c.exec(server, spec("nc -l -p 9001 | sha256sum").Process)
	conn := host.dial("10.6.0.2:9001")
	sum := sha256.New()
	begin := time.Now()
	if _, err := io.CopyN(io.MultiWriter(conn, sum), &noise{}, size); err != nil {
		t.Fatal(err)
	}
	_ = conn.(*net.TCPConn).CloseWrite()
	got, _ := c.finish(server)
	t.Logf("to the guest: %.0f MB/s with a checksum there", size/1e6/time.Since(begin).Seconds())
	if want := fmt.Sprintf("%x", sum.Sum(nil)); !strings.HasPrefix(got, want) {
		t.Errorf("the guest got %s, want %s", got, want)
	}

	bulk(t, c, host, "10.6.0.1:9002", 4*size)
}

// bulk sends bytes from the guest to a server of the host's that counts and sums them. The server speaks first, as a
// database does: Debian 12's passt ends a connection if its server has sent nothing in the first 24 s (docs/network.md),
// and a slow guest takes longer.
func bulk(t *testing.T, c *containerIn, host *space, address string, size int) {
	t.Helper()
	var l net.Listener
	host.do(func() (err error) { l, err = net.Listen("tcp", address); return err })
	defer l.Close()
	type result struct {
		sum  string
		n    int64
		took time.Duration
		err  error
	}
	received := make(chan result, 1)
	go func() {
		conn, err := l.Accept()
		if err != nil {
			received <- result{err: err}
			return
		}
		defer conn.Close()
		if _, err := io.WriteString(conn, "go on\n"); err != nil {
			received <- result{err: err}
			return
		}
		sum := sha256.New()
		begin := time.Now()
		n, err := io.CopyN(sum, conn, int64(size))
		took := time.Since(begin)
		_, _ = io.Copy(io.Discard, conn)
		received <- result{fmt.Sprintf("%x", sum.Sum(nil)), n, took, err}
	}()
	said := c.must(fmt.Sprintf("head -c %d /dev/urandom >/tmp/big; sha256sum </tmp/big; (cat /tmp/big; sleep 2) | timeout 120 nc %s; rm /tmp/big", size, strings.ReplaceAll(address, ":", " ")))
	r := <-received
	if r.err != nil || r.n != int64(size) || !strings.HasPrefix(said, r.sum) {
		t.Errorf("the host got %d bytes with sum %s, %v; the guest sent %s", r.n, r.sum, r.err, said)
	}
	t.Logf("from the guest: %.0f MB/s", float64(r.n)/1e6/r.took.Seconds())
}

// noise is the same bytes each time, and no two blocks alike.
type noise struct{ state uint64 }

func (n *noise) Read(p []byte) (int, error) {
	for i := range p {
		n.state = n.state*6364136223846793005 + 1442695040888963407
		p[i] = byte(n.state >> 56)
	}
	return len(p), nil
}
