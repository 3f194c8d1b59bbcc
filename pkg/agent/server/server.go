// Package server is the agent's face: it serves the services
// grpc.AgentService, grpc.Health and katadirect.volumes.v1.Volumes over ttrpc, turns each request into a call of the package
// that does the work, and each error into a status code.
//
// cmd/agent runs it. There is one method of Service for a method of the
// protocol, and no work in any of them; what has no method here is answered
// with UNIMPLEMENTED and its name.
package server

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"runtime/debug"
	"time"

	"github.com/containerd/ttrpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/katadirect/katadirect/pkg/agent/console"
	"github.com/katadirect/katadirect/pkg/agent/container"
	"github.com/katadirect/katadirect/pkg/agent/network"
	"github.com/katadirect/katadirect/pkg/agent/ports"
	"github.com/katadirect/katadirect/pkg/agent/process"
	"github.com/katadirect/katadirect/pkg/agent/sandbox"
	"github.com/katadirect/katadirect/pkg/agent/server/express"
	"github.com/katadirect/katadirect/pkg/agentproto"
)

// Service answers the protocol's methods. Its fields are set once, before use.
type Service struct {
	agentproto.Unimplemented

	Sandbox *sandbox.Sandbox
	Network *network.Network
	// Console is nil unless the machine was booted with a debug console.
	Console *console.Console
	// PipeSize bounds what one read of a container's output returns, in bytes.
	PipeSize int
	// End is called once, when the sandbox was destroyed and that was
	// answered.
	End func()
	// Forget drops the names and inodes that nobody uses; nil if a removed container's may stay. guest.DropCaches.
	Forget func() error

	bulk    bulk
	forgets forgets
	ports   ports.Ports
}

// Server serves a Service on a listener.
type Server struct {
	ttrpc   *ttrpc.Server
	express express.Handler
	hungUp  func()
}

// New registers s with a server.
func New(s *Service) (*Server, error) {
	t, err := ttrpc.NewServer(ttrpc.WithUnaryServerInterceptor(intercept))
	if err != nil {
		return nil, fmt.Errorf("agent's server: %w", err)
	}
	agentproto.RegisterHealthService(t, health{})
	if onlyKatas != "" {
		agentproto.RegisterAgentServiceService(t, double{s})
		return &Server{t, s.sendOutput, s.hungUp}, nil
	}
	agentproto.RegisterAgentServiceService(t, s)
	agentproto.RegisterVolumesService(t, volumes{s.Sandbox.Mounts})
	agentproto.RegisterPortsService(t, portsService{&s.ports, s.PipeSize})
	if s.Console != nil {
		agentproto.RegisterConsoleService(t, consoleService{s.Console, s.PipeSize})
	}
	return &Server{t, s.sendOutput, s.hungUp}, nil
}

// Serve answers until Shutdown; the host may hang up and come back.
func (s *Server) Serve(ctx context.Context, l net.Listener) error {
	if err := s.ttrpc.Serve(ctx, &telling{&expressListener{l, s.express}, s.hungUp}); !errors.Is(err, ttrpc.ErrServerClosed) {
		return err
	}
	return nil
}

// Shutdown ends Serve. Answers that are being written are finished first, as
// far as ctx allows.
func (s *Server) Shutdown(ctx context.Context) error { return s.ttrpc.Shutdown(ctx) }

// intercept stands around every method: it keeps a panic from ending the
// machine, maps the error, and logs. That what a shim ends or writes to is gone
// already is the ordinary course of things too, and not worth a line in its log.
func intercept(ctx context.Context, unmarshal ttrpc.Unmarshaler, info *ttrpc.UnaryServerInfo, method ttrpc.Method) (answer any, err error) {
	begin := time.Now()
	defer func() {
		if p := recover(); p != nil {
			slog.Error("panic", "method", info.FullMethod, "panic", p, "stack", string(debug.Stack()))
			answer, err = nil, status.Errorf(codes.Internal, "%s: the agent has a bug: %v", info.FullMethod, p)
		}
	}()
	answer, err = method(ctx, unmarshal)
	if err == nil {
		slog.Debug("answered", "method", info.FullMethod, "took", time.Since(begin))
		return answer, nil
	}
	gone := errors.Is(err, sandbox.ErrNoContainer) || errors.Is(err, container.ErrNoProcess) || errors.Is(err, process.ErrStdinClosed)
	err = toStatus(err)
	if !gone && !expected(ctx, info.FullMethod, err) {
		slog.Error("failed", "method", info.FullMethod, "error", err, "took", time.Since(begin))
	}
	return nil, err
}

// expected says whether an error is part of the ordinary course of things: the
// host has hung up, or asks what is there.
func expected(ctx context.Context, method string, err error) bool {
	return ctx.Err() != nil || status.Code(err) == codes.Unimplemented || method == "/grpc.AgentService/GetOOMEvent"
}
