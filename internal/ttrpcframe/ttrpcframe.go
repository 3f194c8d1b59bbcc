// Package ttrpcframe has what the two ends of the agent's channel know of ttrpc's frames, where they put some of their own
// between those of the ttrpc library: the head, and the taking of turns.
package ttrpcframe

import (
	"encoding/binary"
	"errors"
	"io"
	"sync"
)

// A frame of ttrpc is a head of ten bytes, the length of what follows first, and a message. What is said by a stream after
// its request are frames of data, and the last one of each side says so.
const (
	HeadSize     = 10
	TypeRequest  = 1
	TypeResponse = 2
	TypeData     = 3

	FlagClosed = 1 // this side sends no more
	FlagOpen   = 2 // of a request: more comes after it
	FlagNoData = 4
)

// Head is a frame's head, with room for the message behind it.
func Head(messageBytes int, id uint32, kind, flags byte) []byte {
	h := make([]byte, 0, HeadSize+64)
	h = binary.BigEndian.AppendUint32(h, uint32(messageBytes))
	h = binary.BigEndian.AppendUint32(h, id)
	return append(h, kind, flags)
}

// ErrFrame says that the library wrote what is not the beginning of a frame.
var ErrFrame = errors.New("not a frame of ttrpc")

// Turns lets the library, which writes frames in pieces, and others, who write whole ones, write to one channel.
type Turns struct {
	to io.Writer
	// broken is called when half a frame may have been written: nothing can follow it.
	broken func()

	turn sync.Mutex // held while a frame is being written
	left int        // of the library's writing goroutine: how much of its frame is left, in bytes
}

// NewTurns makes the turns of a channel, which broken closes.
func NewTurns(to io.Writer, broken func()) *Turns { return &Turns{to: to, broken: broken} }

// Whole writes a frame that is not the library's.
func (t *Turns) Whole(frame []byte) error {
	t.turn.Lock()
	defer t.turn.Unlock()
	_, err := t.to.Write(frame)
	if err != nil {
		t.broken()
	}
	return err
}

// Write writes for the library: no other frame may come between its pieces.
func (t *Turns) Write(p []byte) (written int, err error) {
	for written < len(p) {
		rest := p[written:]
		if t.left == 0 {
			if len(rest) < HeadSize {
				return written, ErrFrame
			}
			t.turn.Lock()
			t.left = HeadSize + int(binary.BigEndian.Uint32(rest))
		}
		n, err := t.to.Write(rest[:min(len(rest), t.left)])
		written += n
		t.left -= n
		if err != nil {
			t.broken()
			t.left = 0
		}
		if t.left == 0 {
			t.turn.Unlock()
		}
		if err != nil {
			return written, err
		}
	}
	return written, nil
}
