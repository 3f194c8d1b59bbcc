package server

import (
	"context"
	"fmt"
	"math"

	"github.com/katadirect/katadirect/pkg/agent/container"
	"github.com/katadirect/katadirect/pkg/agent/process"
	"github.com/katadirect/katadirect/pkg/agentproto"
)

// maxRead bounds one answer to a read, in bytes: a ttrpc message holds 4 MiB.
const maxRead = 2 << 20

// WriteStdin writes to a process's standard input; nothing to write closes it.
func (s *Service) WriteStdin(ctx context.Context, req *agentproto.WriteStreamRequest) (*agentproto.WriteStreamResponse, error) {
	p, err := s.process(req.GetContainerId(), req.GetExecId())
	if err != nil {
		return nil, err
	}
	if len(req.GetData()) == 0 {
		return &agentproto.WriteStreamResponse{}, p.CloseStdin()
	}
	n, err := p.WriteStdin(ctx, req.GetData())
	if err != nil {
		return nil, err
	}
	return &agentproto.WriteStreamResponse{Len: uint32(n)}, nil
}

// ReadStdout waits for output of a process; none is the end.
func (s *Service) ReadStdout(ctx context.Context, req *agentproto.ReadStreamRequest) (*agentproto.ReadStreamResponse, error) {
	return s.read(ctx, req, (*process.Process).ReadStdout)
}

// ReadStderr is ReadStdout for the other stream.
func (s *Service) ReadStderr(ctx context.Context, req *agentproto.ReadStreamRequest) (*agentproto.ReadStreamResponse, error) {
	return s.read(ctx, req, (*process.Process).ReadStderr)
}

type readFunc func(p *process.Process, ctx context.Context, limit int) ([]byte, error)

func (s *Service) read(ctx context.Context, req *agentproto.ReadStreamRequest, read readFunc) (*agentproto.ReadStreamResponse, error) {
	c, err := s.Sandbox.Container(req.GetContainerId())
	if err != nil {
		return nil, err
	}
	p, err := c.Output(req.GetExecId())
	if err != nil {
		return nil, err
	}
	data, err := read(p, ctx, int(min(req.GetLen(), maxRead)))
	if err != nil {
		return nil, err
	}
	s.bulk.saw(len(data))
	return &agentproto.ReadStreamResponse{Data: data}, nil
}

// CloseStdin ends a process's standard input.
func (s *Service) CloseStdin(_ context.Context, req *agentproto.CloseStdinRequest) (*agentproto.Empty, error) {
	p, err := s.process(req.GetContainerId(), req.GetExecId())
	if err != nil {
		return nil, err
	}
	return empty, p.CloseStdin()
}

// TtyWinResize sets the size of a process's terminal.
func (s *Service) TtyWinResize(_ context.Context, req *agentproto.TtyWinResizeRequest) (*agentproto.Empty, error) {
	p, err := s.process(req.GetContainerId(), req.GetExecId())
	if err != nil {
		return nil, err
	}
	if req.GetRow() > math.MaxUint16 || req.GetColumn() > math.MaxUint16 {
		return nil, fmt.Errorf("terminal of %d by %d: %w", req.GetRow(), req.GetColumn(), container.ErrSpec)
	}
	return empty, p.Resize(uint16(req.GetRow()), uint16(req.GetColumn()))
}

func (s *Service) process(containerID, execID string) (*process.Process, error) {
	c, err := s.Sandbox.Container(containerID)
	if err != nil {
		return nil, err
	}
	return c.Process(execID)
}
