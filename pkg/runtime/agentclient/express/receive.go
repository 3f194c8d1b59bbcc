package express

import (
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/katadirect/katadirect/internal/ttrpcframe"
)

// lotSize is the size of the pieces in which output is parked, in bytes.
const lotSize = 256 << 10

var lots = sync.Pool{New: func() any { b := make([]byte, 0, lotSize); return &b }}

// receive takes an answer. Its error is the channel's.
func (f *flow) receive(id uint32, kind byte, m *message) error {
	defer f.wake()
	if kind != ttrpcframe.TypeResponse || !f.isNext(id) {
		f.fail(fmt.Errorf("%w: it comes out of turn", ErrAnswer))
		return nil
	}
	a, err := m.answer()
	switch wanted := f.request.PieceBytes; {
	case err != nil:
		return err
	case a.err != nil:
		f.fail(a.err)
		return nil
	case a.length == 0:
		f.fail(io.EOF)
		return nil
	case a.length > wanted:
		f.fail(fmt.Errorf("%w: %d bytes for the %d that were asked for", ErrAnswer, a.length, wanted))
		return nil
	}
	direct := f.put(a.unpacked)
	for m.left > 0 {
		piece, err := m.piece()
		if err != nil {
			return err
		}
		direct = f.put(piece) && direct
	}
	f.answered(direct)
	return nil
}

// isNext says whether it is the turn of the answer to that request.
func (f *flow) isNext(id uint32) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.err == nil && len(f.asked) > 0 && f.asked[0].id == id
}

// fail ends the stream.
func (f *flow) fail(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.err == nil {
		f.err = err
	}
}

// put passes output on and says whether there was room for it; otherwise it is parked.
func (f *flow) put(p []byte) (direct bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.ended {
		return true
	}
	if len(f.parked) == 0 && !f.writing {
		n := f.to.TryWrite(p)
		f.written += int64(n)
		p = p[n:]
	}
	if len(p) == 0 {
		return true
	}
	for len(p) > 0 {
		p = f.park(p)
	}
	f.wake()
	return false
}

// park keeps output, and returns what is left of it.
func (f *flow) park(p []byte) (rest []byte) {
	if len(f.parked) == 0 || len(*f.parked[len(f.parked)-1]) == lotSize {
		lot := lots.Get().(*[]byte)
		*lot = (*lot)[:0]
		f.parked = append(f.parked, lot)
	}
	lot := f.parked[len(f.parked)-1]
	n := min(len(p), lotSize-len(*lot))
	*lot = append(*lot, p[:n]...)
	return p[n:]
}

// answered notes that the answer to the oldest request is complete.
func (f *flow) answered(direct bool) {
	f.mu.Lock()
	first := f.asked[0]
	f.asked = f.asked[1:]
	f.slow = !direct
	f.mu.Unlock()
	f.conn.forget(first.id)
	if f.request.Took != nil {
		f.request.Took(time.Since(first.at))
	}
}

// wake has Copy look whether there is something to do.
func (f *flow) wake() {
	select {
	case f.woken <- struct{}{}:
	default: // it will look anyway
	}
}
