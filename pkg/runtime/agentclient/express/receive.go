package express

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"sync"

	"github.com/katadirect/katadirect/internal/ttrpcframe"
)

// lotSize is the size of the pieces in which output is parked, in bytes.
const lotSize = 256 << 10

var lots = sync.Pool{New: func() any { b := make([]byte, 0, lotSize); return &b }}

// receive takes a frame. Its error is the channel's.
func (f *flow) receive(kind, flags byte, m *message) error {
	defer f.wake()
	switch {
	case f.failed():
		return nil // what comes after that is read over
	case kind == ttrpcframe.TypeResponse:
		why, err := m.failure()
		if err == nil {
			f.finish(cmp.Or(why, io.EOF), true)
		}
		return err
	case kind != ttrpcframe.TypeData:
		f.finish(fmt.Errorf("%w: a frame of type %d", ErrAnswer, kind), false)
		return nil
	case flags&ttrpcframe.FlagNoData != 0:
		if flags&ttrpcframe.FlagClosed != 0 {
			f.finish(io.EOF, true)
		}
		return nil
	}
	return f.output(m)
}

// output takes a frame of output.
func (f *flow) output(m *message) error {
	bytes, err := m.data()
	switch {
	case errors.Is(err, ErrAnswer):
		f.finish(err, false)
		return nil
	case err != nil:
		return err
	case !f.spend(bytes):
		f.finish(fmt.Errorf("%w: %d bytes, for which it had no credit", ErrAnswer, bytes), false)
		return nil
	}
	direct := true
	for m.left > 0 {
		piece, err := m.piece()
		if err != nil {
			return err
		}
		direct = f.put(piece) && direct
	}
	f.mu.Lock()
	f.slow = !direct
	f.mu.Unlock()
	return nil
}

func (f *flow) failed() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.err != nil
}

// finish ends the stream. over says whether the guest has.
func (f *flow) finish(err error, over bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.err, f.over = err, over
}

// spend takes what the guest sends off its credit, if it has so much.
func (f *flow) spend(bytes int) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if bytes > f.credit {
		return false
	}
	f.credit -= bytes
	return true
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

// wake has Copy look whether there is something to do.
func (f *flow) wake() {
	select {
	case f.woken <- struct{}{}:
	default: // it will look anyway
	}
}
