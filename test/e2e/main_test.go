package e2e

import (
	"flag"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/katadirect/katadirect/internal/cluster"
	"github.com/katadirect/katadirect/internal/cluster/images"
	"github.com/katadirect/katadirect/internal/lab"
	"github.com/katadirect/katadirect/test/artifacts"
	"github.com/katadirect/katadirect/test/artifacts/clusters"
)

var output = flag.String("report", "", "where the JUnit report is written")

func TestMain(m *testing.M) { artifacts.Main(m) }

// patience bounds each wait: on a busy host without KVM a machine takes its time.
const patience = 3 * time.Minute

// scenario is one story of pods and claims, in a namespace of its own.
type scenario struct {
	namespace, about string
	run              func(t *testing.T, k *kube)
}

// together are the scenarios that do not notice one another. Long ones come first, so that the last ones are short.
var together = slices.Concat(
	[]scenario{
		{"raw-block", "a raw block volume in a machine", rawBlockInAMachine},
		{"raw-read-only", "a raw block volume that is read-only", readOnlyRawBlock},
		{"raw-one-pod", "a raw block volume is one pod's", rawBlockIsOnePods},
		{"grown-offline", "a volume grown while nobody has it", grownWhileNobodyHasIt},
		{"one-pod", "a mounted volume is one pod's", mountedIsOnePods},
		{"inline", "an inline volume in a machine", inlineInAMachine},
		{"attributes", "a VolumeAttributesClass of a volume in use", attributesOfAVolumeInUse},
		{"auto", "auto mounts on the host or in the guest", autoForEachPod},
		{"direct", "a direct volume is for machines only", directForAnOrdinaryPod},
		{"words", "claim and RuntimeClass have their word", wordsOfClaimAndRuntimeClass},
		{"inline-huge", "an inline volume that cannot be is told to people", inlineThatCannotBe},
		{"snapshot", "snapshot, restore and clone of a volume in use", snapshotRestoreAndClone},
	},
)

// alone are those that take something away from everybody.
var alone = []scenario{
	{"blind", "what cannot be looked up is not given", lookUpThatFails},
}

func TestVolumesOfRealPods(t *testing.T) {
	s := openSuite(t)
	t.Run("together", func(t *testing.T) {
		for _, one := range together {
			t.Run(one.namespace, func(t *testing.T) {
				t.Parallel()
				s.play(t, one)
			})
		}
	})
	for _, one := range alone {
		t.Run(one.namespace, func(t *testing.T) { s.play(t, one) })
	}
	t.Run("nothing-is-left", func(t *testing.T) {
		s.play(t, scenario{"", "nothing is left of all that", nothingIsLeft})
	})
}

// openSuite opens a cluster, and fails the test if anything outlives it.
func openSuite(t *testing.T) *suite {
	t.Helper()
	programs, err := cluster.Programs(lab.DefaultCache())
	if err != nil {
		t.Fatal(err)
	}
	small, err := images.Small(programs)
	if err != nil {
		t.Fatal(err)
	}
	s := &suite{journal: newJournal(os.Stdout)}
	t.Cleanup(func() {
		if err := s.journal.write(*output); err != nil {
			t.Error(err)
		}
	})
	up := s.journal.begin("cluster", "the cluster comes up, and goes without a trace")
	t.Cleanup(func() { up.end(t.Failed()) })
	s.Cluster = clusters.Open(t, cluster.Options{Images: small, Progress: up.step}, "containerd", "kubelet", "csi-node")
	up.step("the scenarios")
	t.Cleanup(func() { up.step("the end of the cluster") })
	if s.api, err = newAPI(s.Kubeconfig()); err != nil {
		t.Fatal(err)
	}
	return s
}
