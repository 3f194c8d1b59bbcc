package sanity

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/kubernetes-csi/csi-test/v5/pkg/sanity"
	"github.com/onsi/ginkgo/v2"
	"github.com/onsi/ginkgo/v2/types"
	"github.com/onsi/gomega"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"
	"k8s.io/klog/v2"
)

// suiteEnv tells a process of this test that it is to run the suite, and how. Ginkgo runs one suite in a process.
const suiteEnv = "KATADIRECT_SANITY_SUITE"

// suite is one run of csi-sanity.
type suite struct {
	Endpoint string
	Dir      string // of target and staging paths
	Access   string // "mount" or "block"
	JUnit    string // file for the report
	JSON     string // file for ginkgo's own report
}

// config is what the suite is told of the driver.
func (s suite) config() sanity.TestConfig {
	c := sanity.NewTestConfig()
	c.Address = s.Endpoint
	c.TargetPath = filepath.Join(s.Dir, "target")
	c.StagingPath = filepath.Join(s.Dir, "staging")
	c.TestVolumeAccessType = s.Access
	c.TestVolumeSize = 1 << 30
	c.TestVolumeParameters = map[string]string{"katadirect.io/mode": "direct"}
	c.TestNodeVolumeAttachLimit = true
	c.TestVolumeMutableParameters = map[string]string{"katadirect.io/iops": "1000", "katadirect.io/bytesPerSecond": "10485760"}
	c.DialOptions = append(c.DialOptions, grpc.WithUnaryInterceptor(untouched))
	c.ControllerDialOptions = c.DialOptions
	return c
}

// untouched keeps what the suite sends and gets as it is. csi-sanity compares messages with reflect.DeepEqual, which
// also sees what protobuf notes in a message when it is sent or looked at: equal ones differ then.
func untouched(ctx context.Context, method string, request, reply any, cc *grpc.ClientConn, invoke grpc.UnaryInvoker, options ...grpc.CallOption) error {
	err := invoke(ctx, method, proto.Clone(request.(proto.Message)), reply, cc, options...)
	_ = proto.Clone(reply.(proto.Message)) // looks at all of it
	return err
}

// runSuite runs in a process of its own and returns that process's exit code.
func runSuite(text string) int {
	var s suite
	if err := json.Unmarshal([]byte(text), &s); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 2
	}
	config := s.config()
	suite, reporter := ginkgo.GinkgoConfiguration()
	reporter.JUnitReport, reporter.JSONReport = s.JUnit, s.JSON
	klog.SetOutput(ginkgo.GinkgoWriter)
	specs := sanity.GinkgoTest(&config)
	defer specs.Finalize()
	gomega.RegisterFailHandler(ginkgo.Fail)
	result := &outcomeOfSuite{}
	ginkgo.RunSpecs(result, "csi-sanity, "+s.Access+" volumes", suite, reporter)
	return result.code
}

// outcomeOfSuite is what ginkgo needs of a testing.T.
type outcomeOfSuite struct{ code int }

func (o *outcomeOfSuite) Fail() { o.code = 1 }

// run runs the suite against the driver and returns ginkgo's report.
func (s suite) run(t *testing.T) types.Report {
	t.Helper()
	text, err := json.Marshal(s)
	if err != nil {
		t.Fatal(err)
	}
	program, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), program)
	cmd.Env = append(os.Environ(), suiteEnv+"="+string(text))
	output, runErr := cmd.CombinedOutput()
	data, err := os.ReadFile(s.JSON)
	if err != nil {
		t.Fatalf("the suite left no report: %v, %v\n%s", runErr, err, output)
	}
	var reports []types.Report
	if err := json.Unmarshal(data, &reports); err != nil || len(reports) != 1 {
		t.Fatalf("%d reports: %v", len(reports), err)
	}
	if runErr != nil {
		t.Errorf("the suite: %v\n%s", runErr, output)
	}
	return reports[0]
}

// specs are the suite's specs by what became of them.
func specs(r types.Report) (ran, failed []string, skipped map[string]string) {
	skipped = map[string]string{}
	for _, spec := range r.SpecReports.WithLeafNodeType(types.NodeTypeIt) {
		name := strings.Join(append(spec.ContainerHierarchyTexts, spec.LeafNodeText), " / ")
		switch {
		case spec.State.Is(types.SpecStatePassed):
			ran = append(ran, name)
		case spec.State.Is(types.SpecStateFailureStates):
			ran, failed = append(ran, name), append(failed, name)
		default:
			why := spec.Failure.Message
			if spec.State.Is(types.SpecStatePending) {
				why = "pending"
			}
			skipped[name] = why
		}
	}
	return ran, failed, skipped
}
