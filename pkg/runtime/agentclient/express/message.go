package express

import (
	"bufio"
	"errors"
	"fmt"
	"io"

	"github.com/containerd/ttrpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"github.com/katadirect/katadirect/pkg/agentproto"
)

// ErrAnswer says that the guest answered with what no agent answers.
var ErrAnswer = errors.New("not an answer to a request for output")

// message is what is left of a frame that is being read.
type message struct {
	in   *bufio.Reader
	left int // in bytes
}

const (
	// payloadField is the number of ttrpc.Response's payload, dataField that of ReadStreamResponse's data.
	payloadField = 2
	dataField    = 1
	// prefixSize is the most that comes before the data in an answer that has nothing else: two tags and two lengths.
	prefixSize = 2 * (1 + 5)
	// unpackLimit bounds an answer that is more than its data, and so has to be unpacked: a failure.
	unpackLimit = 64 << 10
)

// answer is what a message turned out to be.
type answer struct {
	// length is how much output follows in the message, in bytes, or is in unpacked.
	length   int
	unpacked []byte
	err      error // the agent's own, a status, or ErrAnswer
}

// answer reads up to the output, if that is all there is in the message, and otherwise all of it. The error is the
// channel's.
func (m *message) answer() (answer, error) {
	start, err := m.in.Peek(min(m.left, prefixSize))
	if err != nil {
		return answer{}, err
	}
	payload, n := lastField(start, payloadField, m.left)
	data, k := lastField(start[n:], dataField, payload)
	if n == 0 || k == 0 {
		return m.unpack()
	}
	_, err = m.in.Discard(n + k)
	m.left -= n + k
	return answer{length: data}, err
}

// lastField reads the beginning of a field of bytes that ends where the message of that length does. It returns the length
// of the field and that of its beginning, which is 0 if this is no such field.
func lastField(start []byte, wanted protowire.Number, messageLength int) (length, beginning int) {
	number, kind, n := protowire.ConsumeTag(start)
	if n < 0 || number != wanted || kind != protowire.BytesType {
		return 0, 0
	}
	size, k := protowire.ConsumeVarint(start[n:])
	if k < 0 || messageLength < n+k || size != uint64(messageLength-n-k) {
		return 0, 0
	}
	return int(size), n + k
}

// unpack reads an answer as the library would.
func (m *message) unpack() (answer, error) {
	if m.left > unpackLimit {
		return answer{err: fmt.Errorf("%w: %d bytes that are not output", ErrAnswer, m.left)}, nil
	}
	packed := make([]byte, m.left)
	n, err := io.ReadFull(m.in, packed)
	m.left -= n
	if err != nil {
		return answer{}, err
	}
	var response ttrpc.Response
	if err := proto.Unmarshal(packed, &response); err != nil {
		return answer{err: fmt.Errorf("%w: %w", ErrAnswer, err)}, nil
	}
	if s := response.GetStatus(); s.GetCode() != int32(codes.OK) {
		return answer{err: status.ErrorProto(s)}, nil
	}
	var read agentproto.ReadStreamResponse
	if err := proto.Unmarshal(response.GetPayload(), &read); err != nil {
		return answer{err: fmt.Errorf("%w: %w", ErrAnswer, err)}, nil
	}
	return answer{length: len(read.GetData()), unpacked: read.GetData()}, nil
}

// piece returns bytes of the message that have come in, at least one. They are good until the next call.
func (m *message) piece() ([]byte, error) {
	if _, err := m.in.Peek(1); err != nil {
		return nil, err
	}
	p, err := m.in.Peek(min(m.in.Buffered(), m.left))
	if err != nil {
		return nil, err
	}
	_, err = m.in.Discard(len(p))
	m.left -= len(p)
	return p, err
}

// skip reads what is left and forgets it.
func (m *message) skip() error {
	n, err := m.in.Discard(m.left)
	m.left -= n
	return err
}
