package sanity

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"github.com/kubernetes-csi/csi-test/v5/pkg/sanity"
	"github.com/onsi/ginkgo/v2"
	"github.com/onsi/ginkgo/v2/types"
	"github.com/onsi/gomega"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
)

// minimumSpecs is how many specs must have run. A driver that advertises nothing skips everything and looks healthy,
// so dropping a capability has to fail here. It only ever goes up.
const minimumSpecs = 46

func TestSanityMount(t *testing.T) {
	dir := t.TempDir()
	config := sanity.NewTestConfig()
	config.Address = startDriver(t, dir, "debug")
	config.TargetPath = filepath.Join(dir, "target")
	config.StagingPath = filepath.Join(dir, "staging")
	config.TestVolumeSize = 1 << 30
	config.TestVolumeParameters = map[string]string{"katadirect.io/mode": "direct"}

	var report types.Report
	ginkgo.ReportAfterSuite("keep the report", func(r ginkgo.Report) { report = r })
	suite, reporter := ginkgo.GinkgoConfiguration()
	reporter.JUnitReport = reportPath(t, "sanity-mount.xml")
	specs := sanity.GinkgoTest(&config)
	defer specs.Finalize()
	gomega.RegisterFailHandler(ginkgo.Fail)
	ginkgo.RunSpecs(t, "csi-sanity, mount volumes", suite, reporter)

	ran := report.SpecReports.WithLeafNodeType(types.NodeTypeIt).CountWithState(types.SpecStatePassed | types.SpecStateFailureStates)
	t.Logf("%d specs ran", ran)
	if ran < minimumSpecs {
		t.Errorf("only %d specs ran, want at least %d", ran, minimumSpecs)
	}
}

// reportPath is out/NAME in the repository.
func reportPath(t *testing.T, name string) string {
	t.Helper()
	path, err := filepath.Abs(filepath.Join("..", "..", "out", name))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	return path
}

// startDriver builds and starts csi-node with all its state below dir, and ends it with the test.
func startDriver(t testing.TB, dir, logLevel string) (endpoint string) {
	t.Helper()
	binary := filepath.Join(dir, "csi-node")
	build := exec.Command("go", "build", "-o", binary, "github.com/katadirect/katadirect/cmd/csi-node")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build csi-node: %v\n%s", err, out)
	}
	endpoint = "unix://" + filepath.Join(dir, "csi.sock")
	log, err := os.Create(filepath.Join(dir, "csi-node.log"))
	if err != nil {
		t.Fatal(err)
	}
	driver := exec.Command(binary, "--endpoint", endpoint, "--node-id", "sanity", "--pool", filepath.Join(dir, "pool"),
		"--record-root", filepath.Join(dir, "records"), "--state-dir", filepath.Join(dir, "state"),
		"--sandbox-dir", filepath.Join(dir, "sandboxes"), "--log-format", "json", "--log-level", logLevel)
	driver.Stderr = log
	if err := driver.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		driver.Process.Signal(os.Interrupt)
		if err := driver.Wait(); err != nil {
			t.Errorf("csi-node ended with %v", err)
		}
		if t.Failed() {
			text, _ := os.ReadFile(log.Name())
			t.Logf("csi-node's log:\n%s", text)
		}
	})
	waitReady(t, endpoint)
	return endpoint
}

func waitReady(t testing.TB, endpoint string) {
	t.Helper()
	conn, err := grpc.NewClient(endpoint, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	if _, err := csi.NewIdentityClient(conn).Probe(ctx, &csi.ProbeRequest{}, grpc.WaitForReady(true)); err != nil {
		t.Fatalf("csi-node is not ready: %v", err)
	}
}
