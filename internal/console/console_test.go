package console

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"io/fs"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestFramesArriveAsTheyWereSent(t *testing.T) {
	here, there := net.Pipe()
	defer here.Close()
	from, to := NewConn(here, bufio.NewReader(here)), NewConn(there, bufio.NewReader(there))
	large := bytes.Repeat([]byte("x"), 2*maxFrame+1)
	go func() {
		_ = from.Send(Stdin, large)
		_ = from.Send(Stdin, nil)
		n, err := from.Writer(Stdout).Write(nil) // no frame: an empty one is the end
		if n != 0 || err != nil {
			t.Error(n, err)
		}
		_ = from.SendJSON(Resize, Size{Rows: 1, Columns: 2})
		from.Close()
	}()
	var got []byte
	for {
		kind, data, err := to.Receive()
		if err != nil || kind != Stdin {
			t.Fatal(kind, err)
		}
		if len(data) == 0 {
			break
		}
		got = append(got, data...)
	}
	if !bytes.Equal(got, large) {
		t.Errorf("%d bytes of %d", len(got), len(large))
	}
	if kind, data, err := to.Receive(); kind != Resize || string(data) != `{"rows":1,"columns":2}` || err != nil {
		t.Errorf("%d, %s, %v", kind, data, err)
	}
	if _, _, err := to.Receive(); err != io.EOF {
		t.Errorf("at the end: %v", err)
	}
}

func TestABrokenFrameIsAnErrorAndCostsNothing(t *testing.T) {
	for name, bytes := range map[string][]byte{
		"too large":     binary.BigEndian.AppendUint32([]byte{byte(Stdout)}, 1<<31),
		"cut off":       append(binary.BigEndian.AppendUint32([]byte{byte(Stdout)}, 5), "abc"...),
		"half a header": {1, 2},
	} {
		c := NewConn(nil, bufio.NewReader(strings.NewReader(string(bytes))))
		if kind, data, err := c.Receive(); err == nil || err == io.EOF {
			t.Errorf("%s: %d, %q, %v", name, kind, data, err)
		}
	}
}

func FuzzReceive(f *testing.F) {
	f.Add([]byte{1, 0, 0, 0, 1, 'x', 7, 0, 0, 0, 0})
	f.Fuzz(func(t *testing.T, text []byte) {
		c := NewConn(nil, bufio.NewReader(bytes.NewReader(text)))
		total := 0
		for {
			_, data, err := c.Receive()
			if err != nil {
				break
			}
			total += headerBytes + len(data)
		}
		if total > len(text) {
			t.Errorf("%d bytes came out of %d", total, len(text))
		}
	})
}

func TestDialSaysWhyThereIsNoConsole(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "s")
	if _, err := Dial(t.Context(), socket, Request{}); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("nobody listens: %v", err)
	}
	listener, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != Path || r.Header.Get("Upgrade") != Protocol {
			t.Errorf("asked %s, %s", r.URL, r.Header)
		}
		http.Error(w, "because", http.StatusTeapot)
	}), ReadHeaderTimeout: time.Second}
	go func() { _ = server.Serve(listener) }()
	defer server.Close()
	_, err = Dial(t.Context(), socket, Request{})
	if refused, ok := err.(*RefusedError); !ok || refused.Code != http.StatusTeapot || refused.Error() != "because" {
		t.Errorf("%v", err)
	}
}
