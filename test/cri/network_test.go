package cri

import (
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/net/dns/dnsmessage"

	"github.com/katadirect/katadirect/internal/kubelet"
	"github.com/katadirect/katadirect/internal/lab"
	"github.com/katadirect/katadirect/test/artifacts"
)

// gateway is the host's end of the bridge on which the lab's pods are.
const gateway = "10.88.0.1"

// echo sends a line to the address from the host, and returns the answer.
func echo(n *kubelet.Node, address, line string) (answer string, err error) {
	err = n.Lab.InNetwork(func() error {
		conn, err := net.DialTimeout("tcp", address, 10*time.Second)
		if err != nil {
			return err
		}
		defer conn.Close()
		if err := conn.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
			return err
		}
		if _, err := fmt.Fprintln(conn, line); err != nil {
			return err
		}
		got := make([]byte, len(line))
		_, err = io.ReadFull(conn, got)
		answer = string(got)
		return err
	})
	return answer, err
}

// serve answers every connection to the host with its greeting.
func serve(t *testing.T, n *kubelet.Node, address, greeting string) {
	t.Helper()
	var l net.Listener
	if err := n.Lab.InNetwork(func() (err error) { l, err = net.Listen("tcp", address); return err }); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			_, _ = io.WriteString(conn, greeting)
			_ = conn.Close()
		}
	}()
}

// nameServer knows one name, at one address.
func nameServer(t *testing.T, n *kubelet.Node, name string, address [4]byte) {
	t.Helper()
	var socket net.PacketConn
	err := n.Lab.InNetwork(func() (err error) { socket, err = net.ListenPacket("udp", gateway+":53"); return err })
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = socket.Close() })
	go func() {
		buf := make([]byte, 512)
		for {
			size, from, err := socket.ReadFrom(buf)
			if err != nil {
				return
			}
			var m dnsmessage.Message
			if m.Unpack(buf[:size]) != nil || len(m.Questions) != 1 {
				continue
			}
			m.Response, m.Authoritative, m.Additionals = true, true, nil
			q := m.Questions[0]
			switch {
			case q.Name.String() != name:
				m.RCode = dnsmessage.RCodeNameError
			case q.Type == dnsmessage.TypeA:
				m.Answers = []dnsmessage.Resource{{
					Header: dnsmessage.ResourceHeader{Name: q.Name, Class: q.Class, TTL: 1}, Body: &dnsmessage.AResource{A: address}}}
			}
			if answer, err := m.Pack(); err == nil {
				_, _ = socket.WriteTo(answer, from)
			}
		}
	}()
}

// address is the pod's, which it must have.
func address(t *testing.T, pod *lab.Pod) string {
	t.Helper()
	ip, err := pod.IP(t.Context())
	if err != nil || ip == "" {
		t.Fatalf("the pod has address %q, %v", ip, err)
	}
	return ip
}

func TestAPodIsOnTheNetworkThatItsPluginsMade(t *testing.T) {
	eachContainerd(t, func(t *testing.T, n *kubelet.Node) {
		pod, err := n.Lab.RunPod(t.Context(), lab.PodSpec{Name: "pod", Handler: kubelet.Handler, DNS: gateway})
		if err != nil {
			t.Fatal(err)
		}
		other := runPod(t, n, "other")
		ip, otherIP := address(t, pod), address(t, other)
		app := run(t, pod, "app", "while :; do nc -l -p 8080 -e cat; done")
		beside := run(t, pod, "beside", idle)
		away := run(t, other, "away", idle)

		if got := exec(t, app, "ip addr show eth0"); !strings.Contains(got, "inet "+ip+"/16") {
			t.Errorf("the runtime says %s, the container has\n%s", ip, got)
		}
		await := func(what string, try func() error) {
			t.Helper()
			var err error
			for end := time.Now().Add(30 * time.Second); time.Now().Before(end); time.Sleep(100 * time.Millisecond) {
				if err = try(); err == nil {
					return
				}
			}
			t.Errorf("%s: %v", what, err)
		}
		expect := func(got string, err error) error {
			if err == nil && strings.TrimSpace(got) != "hello" {
				err = fmt.Errorf("answered %q", got)
			}
			return err
		}
		ask := func(c *lab.Container, to string) func() error {
			return func() error {
				return expect(c.Exec(t.Context(), "sh", "-c", "echo hello | nc -w 10 "+to))
			}
		}
		await("from the host", func() error { return expect(echo(n, ip+":8080", "hello")) })
		await("from the container beside it, at the pod's address", ask(beside, ip+" 8080"))
		await("from the container beside it, at the machine's loopback", ask(beside, "127.0.0.1 8080"))
		await("from another pod", ask(away, ip+" 8080"))

		if _, err := echo(n, ip+":8081", "hello"); !errors.Is(err, syscall.ECONNREFUSED) {
			t.Errorf("a closed port of the pod: %v, want it refused", err)
		}
		if _, err := echo(n, otherIP+":8080", "hello"); !errors.Is(err, syscall.ECONNREFUSED) {
			t.Errorf("the other pod's port: %v, want it refused", err)
		}
		serve(t, n, gateway+":7000", "greetings\n")
		nameServer(t, n, "host.lab.", [4]byte{10, 88, 0, 1})
		if got := exec(t, beside, "nc -w 10 "+gateway+" 7000 </dev/null"); got != "greetings\n" {
			t.Errorf("the host answered %q", got)
		}
		if got := exec(t, beside, "nslookup -type=a host.lab. "+gateway+"; nc -w 10 host.lab. 7000 </dev/null"); !strings.HasSuffix(got, "greetings\n") {
			t.Errorf("by name: %q", got)
		}
		removePod(t, other)
		removePod(t, pod)
		if _, err := echo(n, ip+":8080", "hello"); err == nil {
			t.Error("the pod is gone and its port answers")
		}
	})
}

func TestAPodThatSharesTheHostsNetworkSeesNothingOfIt(t *testing.T) {
	n := artifacts.Node(t, lab.Debian)
	pod, err := n.Lab.RunPod(t.Context(), lab.PodSpec{Name: "pod", Handler: kubelet.Handler, HostNetwork: true})
	if err != nil {
		t.Fatal(err)
	}
	c := run(t, pod, "app", idle)
	if links := exec(t, c, "ip -o link"); strings.Count(links, "\n") != 1 || !strings.Contains(links, "lo:") {
		t.Errorf("the container has\n%s", links)
	}
	removePod(t, pod)
}

// TestAPodOverPasst has its configuration in an annotation, as a pod of a node with another default would.
func TestAPodOverPasst(t *testing.T) {
	n := artifacts.Node(t, lab.Debian)
	pod, err := n.Lab.RunPod(t.Context(), lab.PodSpec{Name: "pod", Handler: kubelet.Handler, DNS: gateway,
		Annotations: map[string]string{"io.katacontainers.config.runtime.internetworking_model": "passt"}})
	if err != nil {
		t.Fatal(err)
	}
	serve(t, n, gateway+":7000", "greetings\n")
	nameServer(t, n, "host.lab.", [4]byte{10, 88, 0, 1})
	c := run(t, pod, "app", idle)
	if got := exec(t, c, "sleep 10 | nc -w 10 host.lab. 7000"); got != "greetings\n" {
		t.Errorf("the host answered %q", got)
	}
	if out := exec(t, c, "ip addr show eth0"); !strings.Contains(out, "inet "+address(t, pod)+"/") {
		t.Errorf("the container has\n%s", out)
	}
	removePod(t, pod)
}
