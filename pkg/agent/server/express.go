package server

import (
	"context"
	"log/slog"
	"net"
	"runtime/debug"

	"github.com/containerd/ttrpc"
	"golang.org/x/sys/unix"
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

// stream is how one of the two output streams is read and moved.
type stream struct {
	name string
	read readFunc
	move func(p *process.Process, ctx context.Context, to, limit int) (int, error)
}

var (
	stdout = stream{"stdout", (*process.Process).ReadStdout, (*process.Process).MoveStdout}
	stderr = stream{"stderr", (*process.Process).ReadStderr, (*process.Process).MoveStderr}
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
	if p.HasTerminal() {
		resp, err := s.read(ctx, req, from.read)
		if err != nil {
			return express.Answer{}, err
		}
		message, err := proto.Marshal(resp)
		return express.Answer{Message: message}, err
	}
	return moved(ctx, p, int(min(req.GetLen(), maxRead)), from)
}

// moved takes output into a pipe of its own first: what is there can be
// counted on, whatever the container does to its end of the stream meanwhile.
func moved(ctx context.Context, p *process.Process, limit int, from stream) (express.Answer, error) {
	var ends [2]int
	if err := unix.Pipe2(ends[:], unix.O_CLOEXEC|unix.O_NONBLOCK); err != nil {
		return express.Answer{}, err
	}
	_, _ = unix.FcntlInt(uintptr(ends[1]), unix.F_SETPIPE_SZ, process.DefaultPipeSize) // only for speed
	n, err := from.move(p, ctx, ends[1], limit)
	_ = unix.Close(ends[1])
	if err != nil {
		_ = unix.Close(ends[0])
		return express.Answer{}, err
	}
	return express.Answer{
		Field: dataField, Pipe: ends[0], Bytes: n, Close: func() { _ = unix.Close(ends[0]) },
	}, nil
}
