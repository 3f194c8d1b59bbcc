// Package guest_test tries the guest agent in real machines, over its real
// protocol: what it does with disks, file systems and containers that no test
// on the host can show.
//
// One machine is booted for all tests that can share it; a test that ends or
// changes the machine has its own.
package guest_test

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/katadirect/katadirect/internal/accel"
	"github.com/katadirect/katadirect/internal/guestimage"
	"github.com/katadirect/katadirect/pkg/runtime/agentclient"
	"github.com/katadirect/katadirect/pkg/runtime/qemu"
)

// patience bounds what takes seconds on a slow host; hitting it is a failure.
const patience = time.Minute

var (
	workDir string
	shared  struct {
		once sync.Once
		m    *machine
		err  error
	}
	image = sync.OnceValues(buildImage)
)

func TestMain(m *testing.M) {
	os.Exit(runTests(m))
}

func runTests(m *testing.M) int {
	if os.Geteuid() != 0 {
		fmt.Fprintln(os.Stderr, "test/guest: run as root: it boots machines and makes file systems")
		return 1
	}
	var err error
	if workDir, err = os.MkdirTemp("", "katadirect-guest-"); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(workDir)
	code := m.Run()
	if shared.m != nil {
		if err := shared.m.stop(); err != nil {
			fmt.Fprintln(os.Stderr, "the shared machine:", err)
			code = 1
		}
	}
	return code
}

// buildImage makes a guest image with the agent of this tree.
func buildImage() (guestimage.Image, error) {
	agent := filepath.Join(workDir, "agent")
	build := exec.Command("go", "build", "-trimpath", "-ldflags=-s -w", "-o", agent, "../../cmd/agent")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		return guestimage.Image{}, fmt.Errorf("build the agent: %w\n%s", err, out)
	}
	return guestimage.Build(context.Background(), guestimage.Options{
		Output: filepath.Join(workDir, "image"), AgentPath: agent,
	})
}

// machine is a booted guest, with its agent on the line.
type machine struct {
	*qemu.Machine
	agent   *agentclient.Client
	console *console
}

// theMachine returns the shared machine, with a sandbox in it.
func theMachine(t *testing.T) *machine {
	t.Helper()
	shared.once.Do(func() {
		if shared.m, shared.err = boot(qemu.Config{}); shared.err == nil {
			shared.err = shared.m.createSandbox(context.Background())
		}
	})
	if shared.err != nil {
		t.Fatal(shared.err)
	}
	shared.m.logOnFailure(t)
	return shared.m
}

// newMachine boots a machine of the test's own.
func newMachine(t *testing.T, c qemu.Config) *machine {
	t.Helper()
	m, err := boot(c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := m.stop(); err != nil {
			t.Error(err)
		}
	})
	m.logOnFailure(t)
	return m
}

func (m *machine) logOnFailure(t *testing.T) {
	from := m.console.length()
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("the guest's console:\n%s", m.console.from(from))
		}
	})
}

func boot(c qemu.Config) (*machine, error) {
	img, err := image()
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp(workDir, "vm-")
	if err != nil {
		return nil, err
	}
	out := &console{}
	c.ID, c.Dir, c.Kernel, c.Initrd = "guest-test", filepath.Join(dir, "vm"), img.Kernel, img.Initrd
	c.Console, c.Log = out, slog.New(slog.DiscardHandler)
	c.KernelParams = append(c.KernelParams, "agent.log=debug")
	if c.MemoryMiB == 0 {
		c.MemoryMiB = 384
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	result, err := accel.Detect(ctx, qemu.KVMTrial(c))
	if err != nil {
		return nil, err
	}
	c.Accel = result.Accel
	m := &machine{Machine: qemu.New(c), console: out}
	if err := m.Start(ctx); err != nil {
		return nil, err
	}
	if err := m.dial(ctx); err != nil {
		return nil, fmt.Errorf("%w\nthe guest's console:\n%s", err, out.from(0))
	}
	return m, nil
}

// dial connects to the agent and asks it whether it serves.
func (m *machine) dial(ctx context.Context) error {
	conn, err := m.DialAgent(ctx)
	if err != nil {
		return err
	}
	m.agent = agentclient.New(conn, agentclient.Options{Log: slog.New(slog.DiscardHandler)})
	if _, err := m.agent.Hello(ctx); err != nil {
		return err
	}
	return nil
}

func (m *machine) stop() error {
	m.agent.Close()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	return m.Stop(ctx)
}

// console keeps what the guest says.
type console struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (c *console) Write(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.text.Write(p)
}

func (c *console) length() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.text.Len()
}

func (c *console) from(offset int) string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return strings.TrimSpace(string(c.text.Bytes()[offset:]))
}
