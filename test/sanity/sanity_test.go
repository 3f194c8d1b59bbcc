package sanity

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/kubernetes-csi/csi-test/v5/pkg/sanity"
	"github.com/onsi/ginkgo/v2"
	"github.com/onsi/ginkgo/v2/types"
	"github.com/onsi/gomega"
)

// minimumSpecs is how many specs must have run. A driver that advertises nothing skips everything and looks healthy,
// so dropping a capability has to fail here. It only ever goes up.
const minimumSpecs = 46

func TestSanityMount(t *testing.T) {
	dir := t.TempDir()
	config := sanity.NewTestConfig()
	config.Address = startDriver(t, dir, "debug").endpoint
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
	checkNothingLeft(t, dir)
}

// checkNothingLeft checks that no volume, record or staged state is left of a driver's work.
func checkNothingLeft(t *testing.T, dir string) {
	t.Helper()
	for _, folder := range []string{"pool", "records", "state/staged"} {
		if left, err := os.ReadDir(filepath.Join(dir, folder)); err != nil || len(withoutLock(left)) > 0 {
			t.Errorf("left in %s: %v, %v", folder, withoutLock(left), err)
		}
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

// withoutLock leaves out the file by which a pool is locked.
func withoutLock(entries []os.DirEntry) []string {
	var names []string
	for _, e := range entries {
		if e.Name() != ".lock" {
			names = append(names, e.Name())
		}
	}
	return names
}
