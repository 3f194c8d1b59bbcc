package main

import (
	"context"
	"log/slog"

	"github.com/containerd/ttrpc"

	"github.com/katadirect/katadirect/internal/calltimes"
	"github.com/katadirect/katadirect/pkg/runtime/config"
	"github.com/katadirect/katadirect/pkg/runtime/sandbox"
	"github.com/katadirect/katadirect/pkg/runtime/shimv2"
	"github.com/katadirect/katadirect/pkg/runtime/task"
)

// service is the Task service as the shim's process serves it.
type service struct {
	*task.Service
	log   *slog.Logger
	calls *calltimes.Times
}

func (s service) Register(server *ttrpc.Server) { task.Register(server, s.Service) }
func (s service) Interceptor() ttrpc.UnaryServerInterceptor {
	return timed(s.calls, task.Interceptor(s.log))
}

func serve(_ context.Context, d shimv2.Daemon) (shimv2.Service, error) {
	calls := new(calltimes.Times)
	return service{
		log: d.Log, calls: calls,
		Service: task.New(task.Config{
			Boot:      boot(d.Log, d.Level, calls),
			Events:    d.Events,
			Shutdown:  d.Shutdown,
			Connected: d.Connected,
			Namespace: d.Namespace,
			Log:       d.Log,
		}),
	}, nil
}

// boot makes a pod's machine by the configuration that its runtime options, or else Kata's places, name.
func boot(log *slog.Logger, level *slog.LevelVar, calls *calltimes.Times) task.Boot {
	return func(ctx context.Context, r task.BootRequest) (task.Sandbox, error) {
		c, err := config.Load(r.ConfigPath)
		if err != nil {
			return nil, err
		}
		notices{dir: noticeDir, log: log}.tell(c.Notices)
		if c.Runtime.Debug || c.Hypervisor.Debug || c.Agent.Debug {
			level.Set(slog.LevelDebug) // what the hypervisor and the guest then say is logged at that level
		}
		s, err := sandbox.Create(ctx, sandbox.Options{
			ID: r.ID, Bundle: r.Bundle, Spec: r.Spec, Config: c, Log: log, Calls: calls,
		})
		if err != nil {
			return nil, err
		}
		return machine{s}, nil
	}
}

// machine is a sandbox in the words of the task service.
type machine struct{ *sandbox.Sandbox }

func (m machine) CreateContainer(ctx context.Context, r task.ContainerRequest) error {
	return m.Sandbox.CreateContainer(ctx, sandbox.ContainerRequest(r))
}

func cleanup(ctx context.Context, sandboxID string, _ *slog.Logger) error {
	return sandbox.Cleanup(ctx, sandboxID, sandbox.Roots{})
}
