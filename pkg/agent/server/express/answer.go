package express

import (
	"encoding/binary"

	"github.com/containerd/ttrpc"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"github.com/katadirect/katadirect/internal/ttrpcframe"
)

// Answer is what a request is answered with: an error, a message, or bytes
// that are the message's only field.
type Answer struct {
	Status  *status.Status // nil unless it failed
	Message []byte         // encoded; of no use with bytes
	// Bytes are in Buffer, from its beginning on. With none, the answer is
	// Message.
	Bytes  int
	Buffer *Buffer
	// Field is the number of the answer's field that has the bytes.
	Field protowire.Number
	// Close is called, unless it is nil, when the answer has been sent.
	Close func()
}

// Buffer is memory for the bytes of an answer, with room before it for what
// precedes them: a virtio port takes 32 KiB at a time, and passes on each piece
// with the same effort, however short it is.
type Buffer struct{ all []byte }

// prefixRoom is enough for a frame's head, two tags and two lengths, in bytes.
const prefixRoom = 32

// NewBuffer makes a buffer.
func NewBuffer(sizeBytes int) *Buffer { return &Buffer{make([]byte, prefixRoom+sizeBytes)} }

// Space is where the bytes go.
func (b *Buffer) Space() []byte { return b.all[prefixRoom:] }

// frame is the first bytes with what precedes them.
func (b *Buffer) frame(prefix []byte, bytes int) []byte {
	start := prefixRoom - len(prefix)
	copy(b.all[start:], prefix)
	return b.all[start : prefixRoom+bytes]
}

// send writes an answer's frame.
func (c *express) send(id uint32, a Answer) error {
	whole, err := a.frame(id)
	if err != nil {
		return err
	}
	return c.out.Whole(whole)
}

func (a Answer) frame(id uint32) ([]byte, error) {
	if a.Status != nil || a.Bytes == 0 {
		message, err := proto.Marshal(&ttrpc.Response{Status: a.Status.Proto(), Payload: a.Message})
		return append(head(id, len(message)), message...), err
	}
	inner := protowire.AppendTag(nil, a.Field, protowire.BytesType)
	inner = protowire.AppendVarint(inner, uint64(a.Bytes))
	outer := protowire.AppendTag(nil, payloadField, protowire.BytesType)
	outer = protowire.AppendVarint(outer, uint64(len(inner)+a.Bytes))
	prefix := append(head(id, len(outer)+len(inner)+a.Bytes), outer...)
	return a.Buffer.frame(append(prefix, inner...), a.Bytes), nil
}

// payloadField is the number of ttrpc.Response's payload.
const payloadField = 2

func head(id uint32, length int) []byte {
	h := binary.BigEndian.AppendUint32(make([]byte, 0, prefixRoom), uint32(length))
	h = binary.BigEndian.AppendUint32(h, id)
	return append(h, ttrpcframe.TypeResponse, 0)
}
