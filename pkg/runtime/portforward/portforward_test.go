package portforward

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"slices"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/katadirect/katadirect/internal/netns"
)

const patience = 20 * time.Second

// newNamespace is a pod's network namespace, with its loopback up.
func newNamespace(t *testing.T) *os.File {
	t.Helper()
	ns, err := netns.New()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ns.Close() })
	err = netns.Do(ns, func() error { return exec.Command("ip", "link", "set", "lo", "up").Run() })
	if err != nil {
		t.Fatal(err)
	}
	return ns
}

// dialIn dials as containerd does: on a thread in the namespace.
func dialIn(ns *os.File, address string) (conn *net.TCPConn, err error) {
	err = netns.Do(ns, func() error {
		c, err := net.DialTimeout("tcp4", address, patience)
		if err == nil {
			conn = c.(*net.TCPConn)
			err = conn.SetDeadline(time.Now().Add(patience))
		}
		return err
	})
	return conn, err
}

// guest answers on two ports: with its number and all that was said when the client has said all, or at once.
type guest struct {
	mu      sync.Mutex
	dialed  []uint16
	running sync.WaitGroup
}

const (
	echoPort  = 8080
	closePort = 9090
)

// asked are the ports that were dialed.
func (g *guest) asked() []uint16 {
	g.mu.Lock()
	defer g.mu.Unlock()
	return slices.Clone(g.dialed)
}

func (g *guest) dial(_ context.Context, port uint16) (Conn, error) {
	g.mu.Lock()
	g.dialed = append(g.dialed, port)
	g.mu.Unlock()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	here, there := socket(fds[0]), socket(fds[1])
	switch port {
	case echoPort:
		g.running.Go(func() {
			defer there.Close()
			data, _ := io.ReadAll(there)
			fmt.Fprintf(there, "%d ", port)
			_, _ = there.Write(data)
		})
	case closePort:
		_, _ = io.WriteString(there, "bye")
		there.Close()
	default:
		there.Close()
		return nil, errors.Join(errors.New("nobody listens"), here.Close())
	}
	return here, nil
}

func socket(fd int) *net.UnixConn {
	f := os.NewFile(uintptr(fd), "guest")
	defer f.Close()
	conn, err := net.FileConn(f)
	if err != nil {
		panic(err)
	}
	return conn.(*net.UnixConn)
}

func start(t *testing.T, ns *os.File) (*Forwarder, *guest) {
	t.Helper()
	g := &guest{}
	f, err := Start(ns, g.dial, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := f.Close(); err != nil {
			t.Error(err)
		}
		g.running.Wait()
	})
	return f, g
}

func TestWhatIsDialedOnLocalhostReachesTheGuestsPort(t *testing.T) {
	ns := newNamespace(t)
	start(t, ns)
	want := bytes.Repeat([]byte("0123456789abcdef"), 1<<16) // 1 MiB each way
	var all sync.WaitGroup
	for range 5 {
		all.Go(func() {
			conn, err := dialIn(ns, fmt.Sprintf("127.0.0.1:%d", echoPort))
			if err != nil {
				t.Error(err)
				return
			}
			defer conn.Close()
			_, writeErr := conn.Write(want)
			got, err := io.ReadAll(errReader{conn, errors.Join(writeErr, conn.CloseWrite())})
			if err != nil || !bytes.Equal(got, append([]byte("8080 "), want...)) {
				t.Errorf("%d bytes came back, want %d; %v", len(got), len(want)+5, err)
			}
		})
	}
	all.Wait()
	conn, err := dialIn(ns, fmt.Sprintf("127.1.2.3:%d", closePort))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if got, err := io.ReadAll(conn); err != nil || string(got) != "bye" {
		t.Errorf("%q, %v", got, err)
	}
}

// errReader fails before it reads, if err is set.
type errReader struct {
	io.Reader
	err error
}

func (r errReader) Read(p []byte) (int, error) {
	if r.err != nil {
		return 0, r.err
	}
	return r.Reader.Read(p)
}

func TestAPortOnWhichNobodyListensIsReset(t *testing.T) {
	ns := newNamespace(t)
	_, g := start(t, ns)
	conn, err := dialIn(ns, "127.0.0.1:1234")
	if err == nil {
		defer conn.Close()
		_, err = conn.Read(make([]byte, 1))
	}
	if !errors.Is(err, unix.ECONNRESET) {
		t.Errorf("%v, want a reset", err)
	}
	if got := g.asked(); !slices.Equal(got, []uint16{1234}) {
		t.Errorf("dialed %v", got)
	}
}

func TestOtherAddressesOfTheNamespaceAreLeftAlone(t *testing.T) {
	ns := newNamespace(t)
	_, g := start(t, ns)
	if err := netns.Do(ns, func() error { return exec.Command("ip", "addr", "add", "10.9.8.7/32", "dev", "lo").Run() }); err != nil {
		t.Fatal(err)
	}
	if conn, err := dialIn(ns, fmt.Sprintf("10.9.8.7:%d", echoPort)); !errors.Is(err, unix.ECONNREFUSED) {
		conn.Close()
		t.Errorf("%v, want a refusal", err)
	}
	if got := g.asked(); len(got) > 0 {
		t.Errorf("dialed %v", got)
	}
}

func TestNothingIsLeftAndTheNextCanStart(t *testing.T) {
	ns := newNamespace(t)
	for range 3 {
		f, _ := start(t, ns)
		conn, err := dialIn(ns, fmt.Sprintf("127.0.0.1:%d", echoPort)) // which stays open
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		if err := f.Close(); err != nil {
			t.Fatal(err)
		}
		if conn, err := dialIn(ns, fmt.Sprintf("127.0.0.1:%d", echoPort)); !errors.Is(err, unix.ECONNREFUSED) {
			conn.Close()
			t.Errorf("after Close: %v, want a refusal", err)
		}
	}
}

// silent is a server that takes everything and never says or closes anything.
type silent struct{ toldAll, closed chan struct{} }

func (s silent) Read([]byte) (int, error)    { <-s.closed; return 0, io.EOF }
func (s silent) Write(p []byte) (int, error) { return len(p), nil }
func (s silent) CloseWrite() error           { close(s.toldAll); return nil }

func (s silent) Close() error {
	select {
	case <-s.closed:
	default:
		close(s.closed)
	}
	return nil
}

func TestAConnectionEndsWithItsClientAlsoWhenTheServerDoesNotMind(t *testing.T) {
	ns := newNamespace(t)
	server := silent{make(chan struct{}), make(chan struct{})}
	f, err := Start(ns, func(context.Context, uint16) (Conn, error) { return server, nil }, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	conn, err := dialIn(ns, "127.0.0.1:80")
	if err != nil {
		t.Fatal(err)
	}
	if err := conn.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	await := func(c chan struct{}, what string) {
		t.Helper()
		select {
		case <-c:
		case <-time.After(patience):
			t.Fatal(what)
		}
	}
	await(server.toldAll, "the server does not learn that the client has said all")
	select {
	case <-server.closed:
		t.Error("a client that still listens was taken for gone")
	case <-time.After(100 * time.Millisecond):
	}
	// What the kernel does by itself, after a minute, where a client has closed both ways.
	if err := errors.Join(conn.SetLinger(0), conn.Close()); err != nil {
		t.Fatal(err)
	}
	await(server.closed, "the client is gone, and its connection keeps its place")
}
