// Package sanity runs csi-sanity, the conformance suite of the CSI community, against the real csi-node binary, and
// kills that binary in the middle of its work.
package sanity

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

// volumeBytes is the size of the volumes that crash tests make: small, so that many fit into any pool.
const volumeBytes = 16 << 20

// maxLogBytes is how much of the driver's log a failed test shows.
const maxLogBytes = 16 << 10

// readyTimeout bounds how long the driver may take to start on a busy machine.
const readyTimeout = 30 * time.Second

// soon makes a client find a restarted driver at once.
var soon = backoff.Config{BaseDelay: 5 * time.Millisecond, Multiplier: 1, MaxDelay: 5 * time.Millisecond}

// binary is csi-node, built once for all tests of this package.
var binary = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "katadirect-sanity-")
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

func TestMain(m *testing.M) {
	if config := os.Getenv(suiteEnv); config != "" {
		os.Exit(runSuite(config))
	}
	code := m.Run()
	if path, err := binary(); err == nil {
		os.RemoveAll(filepath.Dir(path))
	}
	os.Exit(code)
}

// driver is a csi-node process with all its state below one folder.
type driver struct {
	t        testing.TB
	dir      string
	endpoint string
	logLevel string
	flags    []string // besides those that every driver here has

	process *exec.Cmd
	conn    *grpc.ClientConn
}

// startDriver starts csi-node and ends it with the test.
func startDriver(t testing.TB, dir, logLevel string, flags ...string) *driver {
	t.Helper()
	d := &driver{t: t, dir: dir, endpoint: "unix://" + filepath.Join(dir, "csi.sock"), logLevel: logLevel, flags: flags}
	conn, err := grpc.NewClient(d.endpoint, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithConnectParams(grpc.ConnectParams{Backoff: soon}))
	if err != nil {
		t.Fatal(err)
	}
	d.conn = conn
	t.Cleanup(func() { conn.Close() })
	t.Cleanup(d.stop)
	d.start()
	return d
}

// start starts the process, for the first time or after its end, and returns when it answers.
func (d *driver) start() {
	d.t.Helper()
	path, err := binary()
	if err != nil {
		d.t.Fatal(err)
	}
	log, err := os.OpenFile(filepath.Join(d.dir, "csi-node.log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		d.t.Fatal(err)
	}
	defer log.Close()
	d.process = exec.Command(path, append(d.flags, "--endpoint", d.endpoint, "--node-id", "sanity", "--pool", d.pool(),
		"--record-root", filepath.Join(d.dir, "records"), "--state-dir", filepath.Join(d.dir, "state"),
		"--sandbox-dir", filepath.Join(d.dir, "sandboxes"), "--log-format", "json", "--log-level", d.logLevel)...)
	d.process.Stderr = log
	d.process.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := d.process.Start(); err != nil {
		d.t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), readyTimeout)
	defer cancel()
	// The first try may still go to the process that was killed.
	for {
		_, err = csi.NewIdentityClient(d.conn).Probe(ctx, &csi.ProbeRequest{}, grpc.WaitForReady(true))
		if status.Code(err) != codes.Unavailable {
			break
		}
	}
	if err != nil {
		d.t.Fatalf("csi-node is not ready: %v", err)
	}
}

func (d *driver) pool() string { return filepath.Join(d.dir, "pool") }

// kill ends the process as a crash does.
func (d *driver) kill() {
	d.process.Process.Kill()
	d.process.Wait()
}

// stop ends the process as kubelet does, and checks that it ends well.
func (d *driver) stop() {
	if d.process != nil && d.process.ProcessState == nil {
		d.process.Process.Signal(syscall.SIGTERM)
		if err := d.process.Wait(); err != nil {
			d.t.Errorf("csi-node ended with %v", err)
		}
	}
	if d.t.Failed() {
		text, _ := os.ReadFile(filepath.Join(d.dir, "csi-node.log"))
		d.t.Logf("the end of csi-node's log:\n%s", text[max(0, len(text)-maxLogBytes):])
	}
}

// createRequest asks for a small ext4 volume for one pod.
func createRequest(name string) *csi.CreateVolumeRequest {
	return &csi.CreateVolumeRequest{
		Name:          name,
		CapacityRange: &csi.CapacityRange{RequiredBytes: volumeBytes},
		VolumeCapabilities: []*csi.VolumeCapability{{
			AccessType: &csi.VolumeCapability_Mount{Mount: &csi.VolumeCapability_MountVolume{FsType: "ext4"}},
			AccessMode: &csi.VolumeCapability_AccessMode{Mode: csi.VolumeCapability_AccessMode_SINGLE_NODE_SINGLE_WRITER},
		}},
	}
}
