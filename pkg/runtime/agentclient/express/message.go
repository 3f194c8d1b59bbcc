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
)

// ErrAnswer says that the guest sent what no agent sends.
var ErrAnswer = errors.New("not what a stream of output consists of")

// message is what is left of a frame that is being read.
type message struct {
	in   *bufio.Reader
	left int // in bytes
}

const (
	// dataField is the number of OutputData's data.
	dataField = 1
	// prefixSize is the most that comes before the data: a tag and a length.
	prefixSize = 1 + 5
	// failureLimit bounds a failure, which has to be unpacked.
	failureLimit = 64 << 10
)

// data reads up to the output, and returns how much of it follows: all that is left of the message. An error that is not
// ErrAnswer is the channel's.
func (m *message) data() (bytes int, err error) {
	start, err := m.in.Peek(min(m.left, prefixSize))
	if err != nil {
		return 0, err
	}
	number, kind, n := protowire.ConsumeTag(start)
	if n < 0 || number != dataField || kind != protowire.BytesType {
		return 0, fmt.Errorf("%w: not data", ErrAnswer)
	}
	size, k := protowire.ConsumeVarint(start[n:])
	if k < 0 || size == 0 || m.left < n+k || size != uint64(m.left-n-k) {
		return 0, fmt.Errorf("%w: data that is not as long as it says", ErrAnswer)
	}
	_, err = m.in.Discard(n + k)
	m.left -= n + k
	return int(size), err
}

// failure reads why the agent has ended the stream; nil if it gives no reason. An error of the channel's is the second.
func (m *message) failure() (why, err error) {
	if m.left > failureLimit {
		return fmt.Errorf("%w: %d bytes that are not output", ErrAnswer, m.left), nil
	}
	packed := make([]byte, m.left)
	n, err := io.ReadFull(m.in, packed)
	m.left -= n
	if err != nil {
		return nil, err
	}
	var response ttrpc.Response
	if err := proto.Unmarshal(packed, &response); err != nil {
		return fmt.Errorf("%w: %w", ErrAnswer, err), nil
	}
	if s := response.GetStatus(); s.GetCode() != int32(codes.OK) {
		return status.ErrorProto(s), nil
	}
	return nil, nil
}

// leastPiece is what is waited for before it is passed on, in bytes, if so much is to come: QEMU writes page by page, and
// whoever reads the output should not be woken for each.
const leastPiece = 64 << 10

// piece returns bytes of the message that have come in, at least one. They are good until the next call.
func (m *message) piece() ([]byte, error) {
	if _, err := m.in.Peek(min(m.left, leastPiece)); err != nil {
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
