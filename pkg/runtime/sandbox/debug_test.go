package sandbox

import (
	"errors"
	"strings"
	"testing"

	wire "github.com/katadirect/katadirect/internal/console"
	"github.com/katadirect/katadirect/pkg/runtime/config"
	"github.com/katadirect/katadirect/pkg/runtime/management"
)

func TestThereIsNoConsoleUnlessTheConfigurationAndTheAgentHaveOne(t *testing.T) {
	off := &Sandbox{config: config.Default()}
	if _, err := off.OpenConsole(t.Context(), wire.Request{}); !errors.Is(err, management.ErrNoConsole) {
		t.Errorf("off: %v", err)
	}
	if words := debugConsole(false); len(words) > 0 {
		t.Errorf("the guest is told %q", words)
	}
	katas := &Sandbox{config: config.Default()}
	katas.config.Agent.DebugConsole = true
	if _, err := katas.OpenConsole(t.Context(), wire.Request{}); !errors.Is(err, management.ErrCannotConsole) {
		t.Errorf("with Kata's agent: %v", err)
	}
	if words := strings.Join(debugConsole(true), " "); words != "agent.debug_console agent.debug_console_vport=1026" {
		t.Errorf("the guest is told %q", words)
	}
}
