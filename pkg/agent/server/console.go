package server

import (
	"context"
	"fmt"
	"math"

	"github.com/katadirect/katadirect/pkg/agent/console"
	"github.com/katadirect/katadirect/pkg/agentproto"
)

// FeatureConsole says that there is a debug console: the machine was booted
// with one.
const FeatureConsole = "katadirect.console"

// consoleService is the service katadirect.console.v1.Console.
type consoleService struct {
	console *console.Console
	// pipeSize bounds one answer.
	pipeSize int
}

var consoleDone = &agentproto.ConsoleDone{}

// Open starts a program.
func (s consoleService) Open(_ context.Context, req *agentproto.OpenConsoleRequest) (*agentproto.OpenConsoleResponse, error) {
	id, err := s.console.Open(console.Request{
		Args: req.GetArgs(), Env: req.GetEnv(), Terminal: req.GetTerminal(),
		Rows: characters(req.GetRows()), Columns: characters(req.GetColumns()),
	})
	if err != nil {
		return nil, err
	}
	return &agentproto.OpenConsoleResponse{Id: id}, nil
}

// characters is a terminal's height or width; the kernel has 16 bits for it.
func characters(n uint32) uint16 { return uint16(min(n, math.MaxUint16)) }

// Read waits for output.
func (s consoleService) Read(ctx context.Context, req *agentproto.ReadConsoleRequest) (*agentproto.ReadConsoleResponse, error) {
	p, err := s.console.Program(req.GetId())
	if err != nil {
		return nil, err
	}
	read := p.ReadStdout
	if req.GetStderr() {
		read = p.ReadStderr
	}
	data, err := read(ctx, min(int(req.GetLen()), s.pipeSize))
	if err != nil {
		return nil, fmt.Errorf("debug console: %w", err)
	}
	return &agentproto.ReadConsoleResponse{Data: data}, nil
}

// Write writes to the program's standard input.
func (s consoleService) Write(ctx context.Context, req *agentproto.WriteConsoleRequest) (*agentproto.ConsoleDone, error) {
	p, err := s.console.Program(req.GetId())
	if err != nil {
		return nil, err
	}
	if len(req.GetData()) > 0 {
		if _, err := p.WriteStdin(ctx, req.GetData()); err != nil {
			return nil, err
		}
	}
	if req.GetClose() {
		return consoleDone, p.CloseStdin()
	}
	return consoleDone, nil
}

// Resize gives the terminal another size.
func (s consoleService) Resize(_ context.Context, req *agentproto.ResizeConsoleRequest) (*agentproto.ConsoleDone, error) {
	p, err := s.console.Program(req.GetId())
	if err != nil {
		return nil, err
	}
	return consoleDone, p.Resize(characters(req.GetRows()), characters(req.GetColumns()))
}

// Wait waits for the program's exit.
func (s consoleService) Wait(ctx context.Context, req *agentproto.WaitConsoleRequest) (*agentproto.WaitConsoleResponse, error) {
	status, err := s.console.Wait(ctx, req.GetId())
	return &agentproto.WaitConsoleResponse{Status: int32(status)}, err
}

// Close ends the program.
func (s consoleService) Close(_ context.Context, req *agentproto.CloseConsoleRequest) (*agentproto.ConsoleDone, error) {
	s.console.Close(req.GetId())
	return consoleDone, nil
}
