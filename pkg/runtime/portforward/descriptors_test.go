package portforward

import (
	"io"
	"log/slog"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/katadirect/katadirect/internal/netns"
)

// TestAProcessWithoutDescriptorsForwardsWhenItHasSome has a connection come while this process can open nothing.
func TestAProcessWithoutDescriptorsForwardsWhenItHasSome(t *testing.T) {
	ns := newNamespace(t)
	said := make(chan string, 8)
	f, err := Start(ns, (&guest{}).dial, slog.New(slog.NewTextHandler(lines(said), nil)))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var fd int
	err = netns.Do(ns, func() (err error) {
		fd, err = unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	client := os.NewFile(uintptr(fd), "client")
	defer client.Close()

	var before unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &before); err != nil {
		t.Fatal(err)
	}
	restore := func() {
		if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &before); err != nil {
			t.Error(err)
		}
	}
	defer restore()
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: 3, Max: before.Max}); err != nil {
		t.Fatal(err)
	}
	if err := unix.Connect(fd, &unix.SockaddrInet4{Port: closePort, Addr: [4]byte{127, 0, 0, 1}}); err != nil {
		t.Fatal(err)
	}
	select {
	case line := <-said:
		if !strings.Contains(line, unix.EMFILE.Error()) {
			t.Errorf("logged is %s", line)
		}
	case <-time.After(patience):
		t.Error("the connection was taken without a descriptor")
	}
	restore()
	conn, err := net.FileConn(client)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	answer, err := io.ReadAll(deadlined(t, conn))
	if err != nil || string(answer) != "bye" {
		t.Errorf("the guest says %q, %v", answer, err)
	}
}

func deadlined(t *testing.T, conn net.Conn) net.Conn {
	t.Helper()
	if err := conn.SetDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	return conn
}

// lines is a writer that passes on what is written to it.
type lines chan string

func (l lines) Write(p []byte) (int, error) {
	select {
	case l <- string(p):
	default:
	}
	return len(p), nil
}
