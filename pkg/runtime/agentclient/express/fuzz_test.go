package express

import (
	"bytes"
	"io"
	"net"
	"testing"

	"github.com/katadirect/katadirect/internal/ttrpcframe"
)

// saying is a connection on which a guest has said all that it ever will.
type saying struct {
	net.Conn
	io.Reader
}

func (s saying) Read(p []byte) (int, error) { return s.Reader.Read(p) }

// Whatever a guest says, what is not express's reaches the library as it came, and of the rest no more than was asked for
// reaches the sink.
func FuzzWhatAGuestSays(f *testing.F) {
	f.Add(frame(1, ttrpcframe.TypeResponse, []byte("the library's")), 100)
	f.Add(append(frame(firstID, ttrpcframe.TypeResponse, output([]byte("some"))), frame(firstID+2, ttrpcframe.TypeResponse, nil)...), 2)
	f.Add(frame(firstID, ttrpcframe.TypeResponse, output(make([]byte, 300))), 0)
	f.Add(append(frame(firstID+2, ttrpcframe.TypeResponse, output([]byte("some"))), frame(3, 3, nil)...), 1000)
	f.Add(frame(firstID, ttrpcframe.TypeRequest, nil)[:ttrpcframe.HeadSize-1], 1)
	f.Add(frame(firstID, ttrpcframe.TypeResponse, failure(5, "no such process")), 1)
	f.Fuzz(func(t *testing.T, said []byte, room int) {
		const piece = 200
		c := Wrap(saying{Reader: bytes.NewReader(said)})
		to := &sink{room: max(room, 0)}
		flow := &flow{conn: c, to: to, request: Request{PieceBytes: piece}, woken: make(chan struct{}, 1)}
		for range ahead {
			flow.asks(c.register(flow))
		}
		library, err := io.ReadAll(c)
		if err != nil && err != io.ErrUnexpectedEOF {
			t.Fatal(err)
		}
		parked := 0
		for _, p := range flow.parked {
			parked += len(*p)
		}
		if got := len(to.bytes()) + parked; got > ahead*piece {
			t.Errorf("%d bytes for the %d that were asked for", got, ahead*piece)
		}
		if len(library) > len(said) {
			t.Errorf("the library got %d bytes of %d", len(library), len(said))
		}
		if len(said) >= ttrpcframe.HeadSize && said[4] < 0x80 && !bytes.HasPrefix(library, said[:ttrpcframe.HeadSize]) {
			t.Errorf("the library's %x was changed to %x", said[:ttrpcframe.HeadSize], library)
		}
	})
}
