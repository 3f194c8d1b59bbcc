package agentclient

import (
	"context"
	"fmt"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/katadirect/katadirect/pkg/agentproto"
)

// keptPayload is the key of a context with a *[]byte that is to get a call's answer as it came: what is in it need not
// be copied once more, which for output is most of this process's work and garbage.
type keptPayload struct{}

// inPlace makes of a call for output one whose answer's data is a part of the answer's own bytes.
func inPlace(call readCall) readCall {
	return func(ctx context.Context, req *agentproto.ReadStreamRequest) (*agentproto.ReadStreamResponse, error) {
		var payload []byte
		resp, err := call(context.WithValue(ctx, keptPayload{}, &payload), req)
		if err != nil {
			return nil, err
		}
		resp.Data, err = bytesField(payload, dataField)
		return resp, err
	}
}

// dataField is the number of ReadStreamResponse's data.
const dataField = 1

// bytesField finds a field of bytes in an encoded message; as everywhere in protobuf the last one counts.
func bytesField(message []byte, wanted protowire.Number) (field []byte, err error) {
	for len(message) > 0 {
		number, kind, n := protowire.ConsumeTag(message)
		if n < 0 {
			return nil, fmt.Errorf("%w: %w", errStream, protowire.ParseError(n))
		}
		message = message[n:]
		if n = protowire.ConsumeFieldValue(number, kind, message); n < 0 {
			return nil, fmt.Errorf("%w: %w", errStream, protowire.ParseError(n))
		}
		if number == wanted && kind == protowire.BytesType {
			field, _ = protowire.ConsumeBytes(message)
		}
		message = message[n:]
	}
	return field, nil
}
