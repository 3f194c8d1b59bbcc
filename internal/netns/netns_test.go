package netns

import (
	"errors"
	"net"
	"os"
	"testing"
)

func id(t *testing.T) string {
	t.Helper()
	id, err := os.Readlink(current)
	if err != nil {
		t.Fatal(err)
	}
	return id
}

func TestCodeRunsElsewhereAndTheThreadComesBack(t *testing.T) {
	home := id(t)
	space, err := New()
	if err != nil {
		t.Fatalf("%v (run the tests as root)", err)
	}
	defer space.Close()
	var inside string
	var listener net.Listener
	refusal := errors.New("no")
	err = Do(space, func() (err error) {
		inside = id(t)
		links, err := net.Interfaces()
		if err != nil || len(links) == 0 || links[0].Flags&net.FlagUp != 0 {
			t.Errorf("a new namespace has %v, %v", links, err)
		}
		listener, err = net.Listen("tcp", "0.0.0.0:0")
		return errors.Join(err, refusal)
	})
	if !errors.Is(err, refusal) || inside == home {
		t.Errorf("%v, in %s at home in %s", err, inside, home)
	}
	if got := id(t); got != home {
		t.Errorf("afterwards in %s, want %s", got, home)
	}
	_, port, err := net.SplitHostPort(listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	if conn, err := net.Dial("tcp", "127.0.0.1:"+port); err == nil {
		_ = conn.Close()
		t.Error("the socket is at home")
	}
}

func TestWhatIsNoNamespaceIsAnErrorAndNothingRuns(t *testing.T) {
	file, err := os.Open("/dev/null")
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	if err := Do(file, func() error { t.Error("it ran"); return nil }); err == nil {
		t.Error("no error")
	}
}
