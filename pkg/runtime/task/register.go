package task

import (
	"context"
	"fmt"
	"log/slog"
	"runtime/debug"

	"github.com/containerd/ttrpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// The names under which containerd looks for the service. Version 3 differs from 2 in nothing but the name, so both
// are answered with version 2's messages; version 3's own package would bring a whole gRPC server along.
const (
	serviceV2 = "containerd.task.v2.Task"
	serviceV3 = "containerd.task.v3.Task"
)

// Register makes server answer the Task API, versions 2 and 3, with s.
func Register(server *ttrpc.Server, s *Service) {
	methods := map[string]ttrpc.Method{
		"State":      method(s.State),
		"Create":     method(s.Create),
		"Start":      method(s.Start),
		"Delete":     method(s.Delete),
		"Pids":       method(s.Pids),
		"Pause":      method(s.Pause),
		"Resume":     method(s.Resume),
		"Checkpoint": method(s.Checkpoint),
		"Kill":       method(s.Kill),
		"Exec":       method(s.Exec),
		"ResizePty":  method(s.ResizePty),
		"CloseIO":    method(s.CloseIO),
		"Update":     method(s.Update),
		"Wait":       method(s.Wait),
		"Stats":      method(s.Stats),
		"Connect":    method(s.Connect),
		"Shutdown":   method(s.Shutdown),
	}
	for _, name := range []string{serviceV2, serviceV3} {
		server.RegisterService(name, &ttrpc.ServiceDesc{Methods: methods})
	}
}

// method makes a ttrpc method of one of the service's.
func method[Req, Resp any](call func(context.Context, *Req) (*Resp, error)) ttrpc.Method {
	return func(ctx context.Context, unmarshal func(any) error) (any, error) {
		req := new(Req)
		if err := unmarshal(req); err != nil {
			return nil, fmt.Errorf("%w: request: %w", ErrInvalid, err)
		}
		resp, err := call(ctx, req)
		if err != nil {
			return nil, err
		}
		return resp, nil
	}
}

// Interceptor is the edge of the service: it turns errors into codes, logs them, and survives a panic of one call.
func Interceptor(log *slog.Logger) ttrpc.UnaryServerInterceptor {
	return func(ctx context.Context, unmarshal ttrpc.Unmarshaler, info *ttrpc.UnaryServerInfo, call ttrpc.Method) (_ any, err error) {
		defer func() {
			if p := recover(); p != nil {
				log.Error("a call crashed", "call", info.FullMethod, "panic", p, "stack", string(debug.Stack()))
				err = status.Error(codes.Internal, fmt.Sprintf("the shim failed in %s: %v", info.FullMethod, p))
			}
		}()
		resp, err := call(ctx, unmarshal)
		if err != nil {
			log.Debug("call failed", "call", info.FullMethod, "error", err)
			return nil, toStatus(err)
		}
		return resp, nil
	}
}
