package server

import (
	"context"
	"log/slog"
	"net"
	"runtime/debug"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/katadirect/katadirect/pkg/agent/process"
	"github.com/katadirect/katadirect/pkg/agent/server/express"
	"github.com/katadirect/katadirect/pkg/agentproto"
)

// FeatureOutput says that the agent sends output by itself.
const FeatureOutput = "katadirect.output"

// expressListener has output sent past the library.
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

// sendOutput is an express.Handler.
func (s *Service) sendOutput(ctx context.Context, req *agentproto.OutputRequest, to *express.Sender) (outcome *status.Status) {
	defer func() {
		if p := recover(); p != nil {
			slog.Error("panic", "method", "Stream", "panic", p, "stack", string(debug.Stack()))
			outcome = status.Newf(codes.Internal, "send output: the agent has a bug: %v", p)
		}
	}()
	c, err := s.Sandbox.Container(req.GetContainerId())
	if err != nil {
		return status.Convert(toStatus(err))
	}
	p, err := c.Output(req.GetExecId())
	if err != nil {
		return status.Convert(toStatus(err))
	}
	from := stdout
	if req.GetStderr() {
		from = stderr
	}
	if err := from.send(ctx, p, to); err != nil {
		return status.Convert(toStatus(err))
	}
	return nil
}

// stream is how one of the two output streams is read and moved.
type stream struct {
	read readFunc
	move func(p *process.Process, ctx context.Context, to, limit int) (int, error)
}

var (
	stdout = stream{(*process.Process).ReadStdout, (*process.Process).MoveStdout}
	stderr = stream{(*process.Process).ReadStderr, (*process.Process).MoveStderr}
)

// send sends a stream to its end.
func (s stream) send(ctx context.Context, p *process.Process, to *express.Sender) error {
	if p.HasTerminal() {
		return s.sendCopied(ctx, p, to)
	}
	var ends [2]int
	if err := unix.Pipe2(ends[:], unix.O_CLOEXEC|unix.O_NONBLOCK); err != nil {
		return err
	}
	defer func() {
		_ = unix.Close(ends[0])
		_ = unix.Close(ends[1])
	}()
	_, _ = unix.FcntlInt(uintptr(ends[1]), unix.F_SETPIPE_SZ, process.DefaultPipeSize) // only for speed
	for {
		credit, err := to.Credit(ctx)
		if err != nil {
			return err
		}
		// It is moved into a pipe of our own first: what is there can be
		// counted on, whatever the container does to its end meanwhile.
		n, err := s.move(p, ctx, ends[1], min(credit, process.DefaultPipeSize))
		if n == 0 || err != nil {
			return err
		}
		if err := to.Move(ends[0], n); err != nil {
			return err
		}
	}
}

// sendCopied sends what a terminal shows: it has no pages that could be moved.
func (s stream) sendCopied(ctx context.Context, p *process.Process, to *express.Sender) error {
	for {
		credit, err := to.Credit(ctx)
		if err != nil {
			return err
		}
		data, err := s.read(p, ctx, min(credit, process.DefaultPipeSize))
		if len(data) == 0 || err != nil {
			return err
		}
		if _, err := to.Write(data); err != nil {
			return err
		}
	}
}
