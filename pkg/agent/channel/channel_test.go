package channel

import (
	"context"
	"errors"
	"net"
	"path/filepath"
	"testing"
	"time"

	"github.com/katadirect/katadirect/pkg/agent/device"
)

func TestAddressesThatAreNone(t *testing.T) {
	for _, address := range []string{
		"", "vsock", "vsock://", "vsock://-1", "vsock://-1:", "vsock://x:1024", "vsock://-1:x", "vsock://-2:1024",
		"tcp://127.0.0.1:1024", "VSOCK://-1:1024", "/run/agent.sock",
	} {
		if l, err := Listen(t.Context(), address, nil); !errors.Is(err, ErrAddress) {
			t.Errorf("%q: %v, %v; want ErrAddress", address, l, err)
		}
	}
}

func TestUnixSocket(t *testing.T) {
	l, err := Listen(t.Context(), "unix://"+filepath.Join(t.TempDir(), "s"), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	conn, err := net.Dial("unix", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	conn.Close()
}

func TestAPortThatNeverAppears(t *testing.T) {
	events, err := device.Listen()
	if err != nil {
		t.Fatal(err)
	}
	defer events.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if _, err := Listen(ctx, "vserial://no-such-port", events); !errors.Is(err, device.ErrTimeout) {
		t.Errorf("%v, want ErrTimeout", err)
	}
}
