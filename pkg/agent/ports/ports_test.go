package ports

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"testing"
	"time"
)

const patience = 20 * time.Second

// listen serves one connection at a time by handle, and returns its port.
func listen(t *testing.T, address string, handle func(*net.TCPConn)) uint32 {
	t.Helper()
	l, err := net.Listen("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			handle(conn.(*net.TCPConn))
			conn.Close()
		}
	}()
	t.Cleanup(func() { l.Close(); <-ended })
	return uint32(l.Addr().(*net.TCPAddr).Port)
}

func echo(conn *net.TCPConn) { _, _ = io.Copy(conn, conn) }

func TestDataGoesBothWaysAndEnds(t *testing.T) {
	for _, address := range []string{"127.0.0.1:0", "0.0.0.0:0", "[::1]:0"} {
		var p Ports
		id, err := p.Dial(t.Context(), listen(t, address, echo))
		if err != nil {
			t.Errorf("%s: %v", address, err)
			continue
		}
		if err := p.Send(id, []byte("hello"), true); err != nil {
			t.Fatal(err)
		}
		var got bytes.Buffer
		for {
			data, err := p.Receive(id, 3)
			if err != nil {
				t.Fatal(err)
			}
			if len(data) == 0 {
				break
			}
			got.Write(data)
		}
		if got.String() != "hello" {
			t.Errorf("%s: %q came back", address, &got)
		}
		p.Close(id)
		if _, err := p.Receive(id, 1); !errors.Is(err, ErrNone) {
			t.Errorf("after Close: %v", err)
		}
	}
}

func TestWhatCannotBeDialedIsSaid(t *testing.T) {
	var p Ports
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	free := uint32(l.Addr().(*net.TCPAddr).Port)
	l.Close()
	ended, end := context.WithCancel(t.Context())
	end()
	for _, tc := range []struct {
		ctx  context.Context
		port uint32
		want error
	}{{t.Context(), 0, ErrPort}, {t.Context(), 65536, ErrPort}, {t.Context(), free, ErrRefused}, {ended, free, context.Canceled}} {
		if _, err := p.Dial(tc.ctx, tc.port); !errors.Is(err, tc.want) {
			t.Errorf("port %d: %v, want %v", tc.port, err, tc.want)
		}
	}
	if len(p.dialed) > 0 {
		t.Errorf("%d connections are kept", len(p.dialed))
	}
}

// A host that hangs up, or that has enough of one connection, waits for nobody.
func TestWhoeverWaitsIsWokenByTheEnd(t *testing.T) {
	for name, end := range map[string]func(*Ports, uint64){
		"of the connection": (*Ports).Close,
		"of all":            func(p *Ports, _ uint64) { p.CloseAll() },
	} {
		t.Run(name, func(t *testing.T) {
			var p Ports
			id, err := p.Dial(t.Context(), listen(t, "127.0.0.1:0", echo))
			if err != nil {
				t.Fatal(err)
			}
			received := make(chan error, 1)
			go func() { _, err := p.Receive(id, 1); received <- err }()
			time.Sleep(10 * time.Millisecond)
			end(&p, id)
			select {
			case err := <-received:
				if !errors.Is(err, ErrNone) {
					t.Error(err)
				}
			case <-time.After(patience):
				t.Fatal("it still waits")
			}
		})
	}
}

func TestThereAreNotMoreConnectionsThanThereMayBe(t *testing.T) {
	var p Ports
	defer p.CloseAll()
	port := listen(t, "127.0.0.1:0", func(*net.TCPConn) {})
	for range most {
		if _, err := p.Dial(t.Context(), port); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := p.Dial(t.Context(), port); !errors.Is(err, ErrMany) {
		t.Errorf("one more: %v", err)
	}
	p.CloseAll()
	if _, err := p.Dial(t.Context(), port); err != nil {
		t.Errorf("after the end of all: %v", err)
	}
}
