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

// Whatever a guest says, what is not express's reaches the library as it came, and of the rest no more than there was
// credit for reaches the sink.
func FuzzWhatAGuestSays(f *testing.F) {
	f.Add(frame(1, ttrpcframe.TypeResponse, 0, []byte("the library's")), 100)
	f.Add(append(output(firstID, []byte("some")), end(firstID)...), 2)
	f.Add(output(firstID, make([]byte, 300)), 0)
	f.Add(append(output(firstID, []byte("some")), frame(3, 3, 0, nil)...), 1000)
	f.Add(frame(firstID, ttrpcframe.TypeRequest, 0, nil)[:ttrpcframe.HeadSize-1], 1)
	f.Add(frame(firstID, ttrpcframe.TypeResponse, 0, failure(5, "no such process")), 1)
	f.Fuzz(func(t *testing.T, said []byte, room int) {
		const credit = 400
		c := Wrap(saying{Reader: bytes.NewReader(said)})
		to := &sink{room: max(room, 0)}
		flow := &flow{conn: c, to: to, credit: credit, woken: make(chan struct{}, 1)}
		flow.id = c.register(flow)
		library, err := io.ReadAll(c)
		if err != nil && err != io.ErrUnexpectedEOF {
			t.Fatal(err)
		}
		parked := 0
		for _, p := range flow.parked {
			parked += len(*p)
		}
		if got := len(to.bytes()) + parked; got > credit {
			t.Errorf("%d bytes for a credit of %d", got, credit)
		}
		if len(library) > len(said) {
			t.Errorf("the library got %d bytes of %d", len(library), len(said))
		}
		if len(said) >= ttrpcframe.HeadSize && said[4] < 0x80 && !bytes.HasPrefix(library, said[:ttrpcframe.HeadSize]) {
			t.Errorf("the library's %x was changed to %x", said[:ttrpcframe.HeadSize], library)
		}
	})
}
