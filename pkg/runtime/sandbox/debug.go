package sandbox

import (
	"context"

	wire "github.com/katadirect/katadirect/internal/console"
	"github.com/katadirect/katadirect/pkg/agentproto"
	"github.com/katadirect/katadirect/pkg/runtime/agentclient"
	"github.com/katadirect/katadirect/pkg/runtime/management"
)

// debugConsole are the words on the kernel's command line that open the debug console. The port is for Kata's own tool,
// where there is a vsock; ours comes over the agent's channel, and so works without.
func debugConsole(enabled bool) []string {
	if !enabled {
		return nil
	}
	return []string{"agent.debug_console", "agent.debug_console_vport=1026"}
}

// OpenConsole starts a program in the guest itself. It ends with the sandbox at the latest.
func (s *Sandbox) OpenConsole(ctx context.Context, r wire.Request) (management.Console, error) {
	if !s.config.Agent.DebugConsole {
		return nil, management.ErrNoConsole
	}
	if !s.features.Console {
		return nil, management.ErrCannotConsole
	}
	opened, err := s.agent.OpenConsole(ctx, &agentproto.OpenConsoleRequest{
		Args: r.Args, Env: r.Env, Terminal: r.Terminal, Rows: uint32(r.Size.Rows), Columns: uint32(r.Size.Columns),
	})
	if err != nil {
		return nil, err
	}
	return guestConsole{opened}, nil
}

type guestConsole struct{ *agentclient.Console }

// Resize implements management.Console.
func (c guestConsole) Resize(ctx context.Context, size wire.Size) error {
	return c.Console.Resize(ctx, size.Rows, size.Columns)
}
