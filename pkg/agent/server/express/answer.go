package express

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/containerd/ttrpc"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
)

// Answer is what a request is answered with: an error, a message, or the bytes
// in a pipe as the message's only field.
type Answer struct {
	Status  *status.Status // nil unless it failed
	Message []byte         // encoded; of no use with a pipe
	// Field is the number of the answer's field that has the bytes.
	Field protowire.Number
	// Pipe holds Bytes bytes, and nobody writes to it any more. With none, the
	// answer is Message.
	Pipe, Bytes int
	// Close is called, unless it is nil, when the answer has been sent.
	Close func()
}

// errShort says that a pipe had less in it than its answer said.
var errShort = errors.New("the pipe is empty before its end")

// send writes an answer's frame.
func (c *express) send(id uint32, a Answer) error {
	if a.Status != nil || a.Bytes == 0 {
		message, err := proto.Marshal(&ttrpc.Response{Status: a.Status.Proto(), Payload: a.Message})
		if err != nil {
			return err
		}
		c.turn.Lock()
		defer c.turn.Unlock()
		_, err = c.Conn.Write(append(head(id, len(message)), message...))
		return err
	}
	inner := protowire.AppendTag(nil, a.Field, protowire.BytesType)
	inner = protowire.AppendVarint(inner, uint64(a.Bytes))
	outer := protowire.AppendTag(nil, payloadField, protowire.BytesType)
	outer = protowire.AppendVarint(outer, uint64(len(inner)+a.Bytes))
	start := append(head(id, len(outer)+len(inner)+a.Bytes), outer...)
	start = append(start, inner...)
	c.turn.Lock()
	defer c.turn.Unlock()
	if _, err := c.Conn.Write(start); err != nil {
		return err
	}
	return c.move(a.Pipe, a.Bytes)
}

// payloadField is the number of ttrpc.Response's payload.
const payloadField = 2

func head(id uint32, length int) []byte {
	h := binary.BigEndian.AppendUint32(make([]byte, 0, 64), uint32(length))
	h = binary.BigEndian.AppendUint32(h, id)
	return append(h, typeResponse, 0)
}

// move has the kernel move bytes from the pipe to the channel.
func (c *express) move(pipe, bytes int) error {
	raw, err := c.to.SyscallConn()
	if err != nil {
		return err
	}
	var moveErr error
	err = raw.Write(func(fd uintptr) bool {
		for bytes > 0 {
			n, err := unix.Splice(pipe, nil, int(fd), nil, bytes, unix.SPLICE_F_MOVE|unix.SPLICE_F_NONBLOCK)
			switch {
			case errors.Is(err, unix.EINTR):
			case errors.Is(err, unix.EAGAIN):
				return false
			case err != nil:
				moveErr = fmt.Errorf("move output to the channel: %w", err)
				return true
			case n == 0:
				moveErr = errShort
				return true
			}
			bytes -= int(max(n, 0))
		}
		return true
	})
	return errors.Join(err, moveErr)
}
