package crash

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/katadirect/katadirect/internal/console"
	"github.com/katadirect/katadirect/internal/guestimage"
	"github.com/katadirect/katadirect/internal/lab"
	"github.com/katadirect/katadirect/pkg/directvolume"
	"github.com/katadirect/katadirect/test/artifacts"
)

const kernelParams = "io.katacontainers.config.hypervisor.kernel_params"

// agentVictims are what can become of the agent by itself. Its guest's kernel takes no signal for it that it does not
// handle, and the Go runtime handles this one as it does a crash. What stands still in a frozen cgroup answers nobody.
var agentVictims = []victim{
	{
		name: "the agent", reason: "panic|agent cannot go on",
		arm:    fromInside("kill -QUIT 1"),
		atBoot: map[string]string{kernelParams: "agent.server_addr=nonsense"},
	},
	{
		name: "an agent that hangs", reason: "not answer|no answer",
		arm: fromInside("mkdir /sys/fs/cgroup/ice; echo 1 >/sys/fs/cgroup/ice/cgroup.procs; " +
			"echo 1 >/sys/fs/cgroup/ice/cgroup.freeze; sleep 1000"),
		atBoot:   map[string]string{kernelParams: "agent.server_addr=unix:///run/elsewhere"},
		patience: 2 * time.Minute, // the shim gives it 30 s, and asks every 5
	},
}

// fromInside has a shell ready in the guest itself, which runs the script as soon as it is told to.
func fromInside(script string) func(*testing.T, *scene) func() error {
	return func(t *testing.T, s *scene) func() error {
		t.Helper()
		// The path of a socket may have 107 bytes; by way of the folder's descriptor it is short enough.
		dir, err := os.Open(s.node.Lab.Path(directvolume.DefaultGoDir))
		must(t, err)
		defer dir.Close()
		sandboxes := directvolume.Sandboxes{GoDir: fmt.Sprintf("/proc/self/fd/%d", dir.Fd())}
		conn, err := console.Dial(t.Context(), sandboxes.SocketPath(s.pod.ID), console.Request{
			Args: []string{"sh", "-c", "echo ready; read line; " + script},
		})
		must(t, err)
		t.Cleanup(func() { conn.Close() })
		kind, said, err := conn.Receive()
		if err != nil || kind != console.Stdout {
			t.Fatalf("the shell in the guest says %q, %v", said, err)
		}
		return func() error { return conn.Send(console.Stdin, []byte("now\n")) }
	}
}

// The agent is the one part that nobody sees die from the outside: its kernel goes with it, or nothing does.
func TestTheAgentMayDieOrHangAtAnyMoment(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	image, err := guestimage.Build(ctx, guestimage.Options{
		Output: filepath.Join(t.TempDir(), "guest"), AgentPath: filepath.Join(artifacts.BinDir, "agent"), Debug: true,
	})
	must(t, err)
	options := artifacts.NodeOptions(lab.Debian)
	options.Image = image
	options.Config = "enable_annotations = [\"kernel_params\"]\n[agent.kata]\ndebug_console_enabled = true\ndial_timeout = 20\n"
	s := newSceneOn(t, artifacts.NodeWith(t, options))
	for _, m := range moments {
		for _, v := range agentVictims {
			t.Run(v.name+" dies in "+m.name, func(t *testing.T) { s.play(t, m, v) })
		}
	}
	s.close(t)
}
