package server

import (
	"context"
	"log/slog"
	"net"
	"runtime/debug"

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
	pour := p.PourStdout
	if req.GetStderr() {
		pour = p.PourStderr
	}
	if err := pour(ctx, to.Taker(process.DefaultPipeSize)); err != nil {
		return status.Convert(toStatus(err))
	}
	return nil
}
