package e2e

import (
	"flag"
	"os"
	"testing"
	"time"

	"github.com/katadirect/katadirect/internal/accel"
	"github.com/katadirect/katadirect/internal/cluster"
	"github.com/katadirect/katadirect/internal/cluster/images"
	"github.com/katadirect/katadirect/internal/lab"
	"github.com/katadirect/katadirect/internal/postgresimage"
	"github.com/katadirect/katadirect/pkg/runtime/qemu"
	"github.com/katadirect/katadirect/test/artifacts"
	"github.com/katadirect/katadirect/test/artifacts/clusters"
)

var (
	output = flag.String("report", "", "where the JUnit report is written")
	bench  = flag.String("figures", "", "the file with figures of speed to which those measured here are added") // go test has a -bench
)

func TestMain(m *testing.M) { artifacts.Main(m) }

// patience bounds each wait: on a busy host without KVM a machine takes its time.
const patience = 3 * time.Minute

// scenario is one story of pods and claims, in a namespace of its own.
type scenario struct {
	namespace, about string
	run              func(t *testing.T, k *kube)
}

// together are the scenarios that do not notice one another. Long ones come first, so that the last ones are short.
var together = []scenario{
	{"postgres", "PostgreSQL under load grows three times, and its snapshot comes up clean", databaseUnderLoad},
	{"walk", "from claim to data that outlives its pod, growing meanwhile", walkThrough},
	{"restart", "a StatefulSet's rolling restart", rollingRestart},
	{"orders", "claims, pods and classes deleted in awkward orders", awkwardOrders},
	{"prometheus", "Prometheus sees the driver, every panel has data, and alerts fire", prometheusSeesTheDriver},
	{"plugin", "kubectl katadirect shows claims, machines and what went wrong", pluginShowsVolumes},
	{"namespace", "a namespace deleted with everything in use", namespaceGoes},
	{"smaller", "a volume never shrinks", neverSmaller},
	{"bad-input", "what cannot be is told to people", badInput},
	{"room", "what does not fit waits until it does", roomIsTracked},
	{"groups", "volumes belong to their pods' groups", groupsOfVolumes},
	{"tools", "kubectl exec, logs, attach, port-forward and cp", kubectlsTools},
	{"ephemeral", "a claim that comes and goes with its pod", ephemeralVolume},
	{"subpath", "folders of a volume", subPaths},
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
}

// alone are those that take something away from everybody.
var alone = []scenario{
	{"blind", "what cannot be looked up is not given", lookUpThatFails},
	{"missing", "the driver is not running", driverIsMissing},
	{"full", "the disk is full", diskIsFull},
	{"examples", "the examples do what they say", examplesRun},
	{"speed", "how long pods take to start", startingPods},
	{"ten", "ten pods with a claim each, at once", tenAtOnce},
	{"restarts", "driver, kubelet, containerd and API server start again under a running pod", restartsUnderAPod},
	{"reboot", "the node reboots", nodeReboots},
	{"installer", "the runtime is put on a node by its DaemonSet, and taken off again under a pod", installerOnANode},
	{"chart", "Helm takes the driver over from kustomize, upgrades it, rolls it back, and installs it anew", chartInPlaceOfKustomize},
	{"nodes", "two nodes: a volume is used where it is", twoNodes},
	{"rights", "what the driver's accounts may do is what they have done", rightsAreUsed},
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
	if small[postgresimage.Name], err = postgresimage.Build(t.Context(), "", nil); err != nil {
		t.Fatal(err)
	}
	guest := qemu.Config{Kernel: artifacts.Image.Kernel, Initrd: artifacts.Image.Initrd}
	by, err := accel.Detect(t.Context(), qemu.KVMTrial(guest))
	if err != nil {
		t.Fatal(err)
	}
	s := &suite{journal: newJournal(os.Stdout), accel: string(by.Accel)}
	t.Cleanup(func() {
		if err := s.journal.write(*output); err != nil {
			t.Error(err)
		}
	})
	up := s.journal.begin("cluster", "the cluster comes up, and goes without a trace")
	t.Cleanup(func() { up.end(t.Failed()) })
	s.Cluster = clusters.Open(t, cluster.Options{Images: small, Progress: up.done}, "containerd", "kubelet", "csi-node")
	up.step("the scenarios")
	t.Cleanup(func() { up.step("the end of the cluster") })
	if s.api, err = newAPI(s.Kubeconfig()); err != nil {
		t.Fatal(err)
	}
	return s
}
