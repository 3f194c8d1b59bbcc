package conformance

import (
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/katadirect/katadirect/internal/cluster"
	"github.com/katadirect/katadirect/internal/cluster/images"
	"github.com/katadirect/katadirect/internal/lab"
	"github.com/katadirect/katadirect/test/artifacts"
	"github.com/katadirect/katadirect/test/artifacts/clusters"
)

var (
	whole   = flag.Bool("whole", false, "run every spec of the selection, not the core alone")
	procs   = flag.Int("procs", 3, "how many specs run at a time")
	handler = flag.String("handler", cluster.Handler, "containerd's default handler: runc gives what there is to compare with")
	output  = flag.String("report", "", "where the JUnit report is written")
)

func TestMain(m *testing.M) { artifacts.Main(m) }

// TestPodsInMachinesPass runs the core, or with -whole every spec there is.
func TestPodsInMachinesPass(t *testing.T) {
	all := readLists(t)
	for _, left := range []string{"/tmp/sub-path", "/tmp/test-file"} { // by the suite's specs of host paths; the file by some orders
		removeAtEnd(t, left)
	}
	c := openCluster(t)
	s := suite{programs: c.Program(""), kubeconfig: c.Kubeconfig(), dir: t.TempDir()}
	var names []string
	if !*whole {
		if names = slices.Sorted(maps.Keys(all[coreFile])); len(names) == 0 {
			t.Fatal("the core is empty")
		}
	}
	start := time.Now()
	results, err := s.run(t.Context(), *procs, names...)
	if err != nil {
		t.Fatalf("%v\n%s", err, c.Tails("kubelet", "containerd"))
	}
	if *output != "" {
		if err := writeReport(*output, results); err != nil {
			t.Error(err)
		}
	}
	ran := map[string]bool{}
	for _, r := range results {
		ran[r.Name] = true
		_, expected := all[passesFile][r.Name]
		switch {
		case expected && r.Failure != "":
			t.Errorf("failed after %.0f s: %s\n%s", r.Seconds, r.Name, tail([]byte(r.Failure)))
		case !expected && r.Failure == "":
			t.Logf("passes, and %s does not say so: %s", passesFile, r.Name)
		}
	}
	for _, name := range s.retried() {
		t.Logf("passed at the second try: %s", name)
	}
	if *whole {
		names = slices.Sorted(maps.Keys(all[passesFile]))
	}
	for _, name := range names {
		if !ran[name] {
			t.Errorf("did not run: %s", name)
		}
	}
	t.Logf("%s in %.0f s, %d at a time, under %s", count(results), time.Since(start).Seconds(), *procs, *handler)
}

// removeAtEnd removes what was not there before the test.
func removeAtEnd(t *testing.T, path string) {
	t.Helper()
	if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
		return
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(path); err != nil {
			t.Error(err)
		}
	})
}

func count(results []result) string {
	failed := 0
	for _, r := range results {
		if r.Failure != "" {
			failed++
		}
	}
	return fmt.Sprintf("%d of %d specs passed", len(results)-failed, len(results))
}

// openCluster opens a cluster for one test and fails the test if anything outlives it.
func openCluster(t *testing.T) *cluster.Cluster {
	t.Helper()
	all, err := images.Suite(programs(t))
	if err != nil {
		t.Fatal(err)
	}
	return clusters.Open(t, cluster.Options{DefaultHandler: *handler, Images: all, WithoutDriver: true}, "containerd", "kubelet")
}

func programs(t *testing.T) string {
	t.Helper()
	dir, err := cluster.Programs(lab.DefaultCache())
	if err == nil {
		_, err = os.Stat(filepath.Join(dir, ".suite-complete"))
	}
	if err != nil {
		t.Fatalf("%v: \"make kubernetes kubernetes-suite\" builds what this needs", err)
	}
	return dir
}
