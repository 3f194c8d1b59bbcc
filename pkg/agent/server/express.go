package server

import (
	"context"
	"log/slog"
	"net"
	"runtime/debug"
	"sync"

	"github.com/containerd/ttrpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/katadirect/katadirect/pkg/agent/process"
	"github.com/katadirect/katadirect/pkg/agent/server/express"
	"github.com/katadirect/katadirect/pkg/agentproto"
)

const (
	// muchOutput is what a shim that reads a stream of much output asks for,
	// in bytes.
	muchOutput = 512 << 10
	// dataField is the number of ReadStreamResponse's data.
	dataField = 1
)

// expressListener has requests for much output answered past the library.
type expressListener struct {
	net.Listener
	handler express.Handler
}

func (l *expressListener) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return express.Wrap(conn, l.handler), nil
}

// stream is how one of the two output streams is read.
type stream struct {
	name string
	fill func(p *process.Process, ctx context.Context, space func() []byte) (int, error)
}

var (
	stdout = stream{"stdout", (*process.Process).FillStdout}
	stderr = stream{"stderr", (*process.Process).FillStderr}
)

// express is an express.Handler.
func (s *Service) express(req *ttrpc.Request) *express.Work {
	if req.GetService() != "grpc.AgentService" {
		return nil
	}
	var from stream
	switch req.GetMethod() {
	case "ReadStdout":
		from = stdout
	case "ReadStderr":
		from = stderr
	default:
		return nil
	}
	var read agentproto.ReadStreamRequest
	if err := proto.Unmarshal(req.GetPayload(), &read); err != nil || read.GetLen() < muchOutput {
		return nil
	}
	return &express.Work{
		// A stream's answers are its bytes, so they come as they were asked for.
		Queue: from.name + " " + read.GetContainerId() + " " + read.GetExecId(),
		Do: func(ctx context.Context) (answer express.Answer) {
			defer func() {
				if p := recover(); p != nil {
					slog.Error("panic", "stream", from.name, "panic", p, "stack", string(debug.Stack()))
					answer = express.Answer{Status: status.Newf(codes.Internal, "read %s: the agent has a bug: %v", from.name, p)}
				}
			}()
			answer, err := s.output(ctx, &read, from)
			if err != nil {
				return express.Answer{Status: status.Convert(toStatus(err))}
			}
			return answer
		},
	}
}

// buffers are for the answers, each as large as what a container's pipe holds.
// An answer that waits for output has none.
var buffers = sync.Pool{New: func() any { return express.NewBuffer(process.DefaultPipeSize) }}

// output waits for output and answers with it.
func (s *Service) output(ctx context.Context, req *agentproto.ReadStreamRequest, from stream) (express.Answer, error) {
	c, err := s.Sandbox.Container(req.GetContainerId())
	if err != nil {
		return express.Answer{}, err
	}
	p, err := c.Output(req.GetExecId())
	if err != nil {
		return express.Answer{}, err
	}
	var buffer *express.Buffer
	n, err := from.fill(p, ctx, func() []byte {
		if buffer == nil {
			buffer = buffers.Get().(*express.Buffer)
		}
		space := buffer.Space()
		return space[:min(int(req.GetLen()), len(space))]
	})
	release := func() {
		if buffer != nil {
			buffers.Put(buffer)
		}
	}
	if err != nil {
		release()
		return express.Answer{}, err
	}
	return express.Answer{Field: dataField, Buffer: buffer, Bytes: n, Close: release}, nil
}
