// Package csinode runs the real csi-node program for tests that need no machine: it builds it once per test program,
// starts it with all its state below one folder, kills it as a crash does, and ends it as kubelet does.
package csinode

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
)

// NodeID is the name of the drivers' node.
const NodeID = "test-node"

// maxLogBytes is how much of the driver's log a failed test shows.
const maxLogBytes = 16 << 10

// readyTimeout bounds how long the driver may take to start on a busy machine.
const readyTimeout = 30 * time.Second

// soon makes a client find a restarted driver at once.
var soon = backoff.Config{BaseDelay: 5 * time.Millisecond, Multiplier: 1, MaxDelay: 5 * time.Millisecond}

// binary is csi-node, built once for all tests of a program.
var binary = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "katadirect-csi-node-")
	if err != nil {
		return "", err
	}
	path := filepath.Join(dir, "csi-node")
	out, err := exec.Command("go", "build", "-o", path, "github.com/katadirect/katadirect/cmd/csi-node").CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("build csi-node: %w\n%s", err, out)
	}
	return path, nil
})

// Main is for TestMain: it runs the tests, removes what was built, and returns the code to exit with.
func Main(m interface{ Run() int }) int {
	code := m.Run()
	if path, err := binary(); err == nil {
		os.RemoveAll(filepath.Dir(path))
	}
	return code
}

// Driver is a csi-node process with all its state below one folder, which outlives the process.
type Driver struct {
	Dir      string
	Endpoint string
	// Conn finds the process again when it was killed and started.
	Conn *grpc.ClientConn
	// Flags are given besides those that every driver has.
	Flags []string

	t          testing.TB
	process    *exec.Cmd
	here       *here  // instead of a process
	kubernetes string // for here
}

// Start starts csi-node in dir, and ends it with the test.
func Start(t testing.TB, dir string, flags ...string) *Driver {
	t.Helper()
	d := newDriver(t, dir)
	d.Flags = flags
	d.mustStart()
	return d
}

func newDriver(t testing.TB, dir string) *Driver {
	t.Helper()
	d := &Driver{t: t, Dir: dir, Endpoint: "unix://" + filepath.Join(dir, "csi.sock")}
	conn, err := grpc.NewClient(d.Endpoint, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithConnectParams(grpc.ConnectParams{Backoff: soon}))
	if err != nil {
		t.Fatal(err)
	}
	d.Conn = conn
	return d
}

func (d *Driver) mustStart() {
	d.t.Helper()
	d.t.Cleanup(func() { d.Conn.Close() })
	d.t.Cleanup(d.end)
	if err := d.Start(); err != nil {
		d.t.Fatal(err)
	}
}

// Pool, Records, State and Sandboxes are the folders of the driver's state.
func (d *Driver) Pool() string      { return filepath.Join(d.Dir, "pool") }
func (d *Driver) Records() string   { return filepath.Join(d.Dir, "records") }
func (d *Driver) State() string     { return filepath.Join(d.Dir, "state") }
func (d *Driver) Sandboxes() string { return filepath.Join(d.Dir, "sandboxes") }
func (d *Driver) Log() string       { return filepath.Join(d.Dir, "csi-node.log") }

// Start starts the process, for the first time or after its end, and returns when it answers.
func (d *Driver) Start() error {
	if d.here != nil {
		return d.startHere()
	}
	path, err := binary()
	if err != nil {
		return err
	}
	log, err := os.OpenFile(d.Log(), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	d.process = exec.Command(path, append([]string{"--endpoint", d.Endpoint, "--node-id", NodeID, "--pool", d.Pool(),
		"--record-root", d.Records(), "--state-dir", d.State(), "--sandbox-dir", d.Sandboxes(), "--log-format", "json"},
		d.Flags...)...)
	d.process.Stderr = log
	d.process.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := d.process.Start(); err != nil {
		return err
	}
	return d.ready()
}

func (d *Driver) ready() error {
	ctx, cancel := context.WithTimeout(context.Background(), readyTimeout)
	defer cancel()
	for {
		_, err := csi.NewIdentityClient(d.Conn).Probe(ctx, &csi.ProbeRequest{}, grpc.WaitForReady(true))
		// The first try may still go to the process that was killed.
		if status.Code(err) == codes.Unavailable {
			continue
		}
		if err != nil {
			return fmt.Errorf("csi-node is not ready: %w", err)
		}
		return nil
	}
}

// Kill ends the process as a crash does.
func (d *Driver) Kill() {
	d.process.Process.Kill()
	d.process.Wait()
}

// CanBeKilled says whether the driver is a process of its own.
func (d *Driver) CanBeKilled() bool { return d.here == nil }

// Stop ends the process as kubelet does.
func (d *Driver) Stop() error {
	if d.here != nil {
		return d.stopHere()
	}
	d.process.Process.Signal(syscall.SIGTERM)
	if err := d.process.Wait(); err != nil {
		return fmt.Errorf("csi-node ended with %w", err)
	}
	return nil
}

// PID is the process's number.
func (d *Driver) PID() int { return d.process.Process.Pid }

// end stops the process at the end of a test, and shows the log if the test has failed.
func (d *Driver) end() {
	if d.here != nil || d.process != nil && d.process.Process != nil && d.process.ProcessState == nil {
		if err := d.Stop(); err != nil {
			d.t.Error(err)
		}
	}
	if d.t.Failed() {
		text, _ := os.ReadFile(d.Log())
		d.t.Logf("the end of csi-node's log:\n%s", text[max(0, len(text)-maxLogBytes):])
	}
}
