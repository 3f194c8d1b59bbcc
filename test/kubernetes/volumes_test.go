package kubernetes

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/katadirect/katadirect/internal/cluster"
	"github.com/katadirect/katadirect/internal/cluster/images"
	"github.com/katadirect/katadirect/internal/lab"
	"github.com/katadirect/katadirect/test/artifacts"
	"github.com/katadirect/katadirect/test/artifacts/clusters"
)

func TestMain(m *testing.M) { artifacts.Main(m) }

// patience bounds each wait: on a busy host without KVM a machine takes its time.
const patience = 3 * time.Minute

// scenarios are the tests; each is a function of a file of its own subject.
var scenarios = map[string]func(t *testing.T, c *kube){
	"a raw block volume in a machine":                   rawBlockInAMachine,
	"a raw block volume that is read-only":              readOnlyRawBlock,
	"a raw block volume is one pod's":                   rawBlockIsOnePods,
	"a volume grown while nobody has it":                grownWhileNobodyHasIt,
	"a mounted volume is one pod's":                     mountedIsOnePods,
	"an inline volume in a machine":                     inlineInAMachine,
	"a VolumeAttributesClass of a volume in use":        attributesOfAVolumeInUse,
	"auto mounts on the host or in the guest":           autoForEachPod,
	"a direct volume is for machines only":              directForAnOrdinaryPod,
	"claim and RuntimeClass have their word":            wordsOfClaimAndRuntimeClass,
	"what cannot be looked up is not given":             lookUpThatFails,
	"an inline volume that cannot be is told to people": inlineThatCannotBe,
}

func TestVolumesOfRealPods(t *testing.T) {
	c := openCluster(t)
	for name, run := range scenarios {
		t.Run(name, func(t *testing.T) { run(t, &kube{t: t, Cluster: c}) })
	}
	(&kube{t: t, Cluster: c}).nothingIsLeft()
}

// openCluster opens a cluster and fails the test if anything outlives it.
func openCluster(t *testing.T) *cluster.Cluster {
	t.Helper()
	programs, err := cluster.Programs(lab.DefaultCache())
	if err != nil {
		t.Fatal(err)
	}
	small, err := images.Small(programs)
	if err != nil {
		t.Fatal(err)
	}
	return clusters.Open(t, cluster.Options{Images: small}, "containerd", "kubelet", "csi-node")
}

// kube is the cluster in the hands of one scenario.
type kube struct {
	t *testing.T
	*cluster.Cluster
}

func (k *kube) kubectl(args ...string) string {
	k.t.Helper()
	out, err := k.Kubectl(k.t.Context(), args...)
	if err != nil {
		k.t.Fatalf("kubectl %s: %v", strings.Join(args, " "), err)
	}
	return out
}

// apply makes what a manifest says.
func (k *kube) apply(manifest string) {
	k.t.Helper()
	file := filepath.Join(k.t.TempDir(), "manifest.yaml")
	if err := os.WriteFile(file, []byte(manifest), 0o600); err != nil {
		k.t.Fatal(err)
	}
	k.kubectl("apply", "-f", file)
}

// ready waits until the pod is, and says why it is not.
func (k *kube) ready(pod string) {
	k.t.Helper()
	_, err := k.Kubectl(k.t.Context(), "wait", "--for=condition=Ready", "pod/"+pod, "--timeout="+patience.String())
	if err != nil {
		k.t.Fatalf("pod %s: %v\n%s", pod, err, k.kubectl("describe", "pod", pod))
	}
}

// exec runs a shell's commands in the pod and returns what they say.
func (k *kube) exec(pod, commands string) string {
	k.t.Helper()
	return strings.TrimSpace(k.kubectl("exec", pod, "--", "sh", "-c", commands))
}

// remove deletes things and waits until they are gone.
func (k *kube) remove(things ...string) {
	k.t.Helper()
	k.kubectl(append([]string{"delete", "--wait", "--timeout=" + patience.String()}, things...)...)
}

// until asks again and again until the answer is good.
func (k *kube) until(what string, good func() (string, bool)) {
	k.t.Helper()
	said := ""
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); time.Sleep(200 * time.Millisecond) {
		ok := false
		if said, ok = good(); ok {
			return
		}
	}
	k.t.Fatalf("%s: it never came; the last word is\n%s", what, said)
}

// event waits for an event of the thing that has all the words.
func (k *kube) event(thing string, words ...string) {
	k.t.Helper()
	k.until(fmt.Sprintf("an event of %s with %q", thing, words), func() (string, bool) {
		said := k.kubectl("get", "events", "--field-selector=involvedObject.name="+thing, "-o=custom-columns=M:.message", "--no-headers")
		for _, word := range words {
			if !strings.Contains(said, word) {
				return said, false
			}
		}
		return said, true
	})
}

// nothingIsLeft looks for volumes, loop devices and mounts of the driver's, and waits for their end: the API forgets a
// claim before the driver has deleted the volume.
func (k *kube) nothingIsLeft() {
	k.t.Helper()
	k.until("an empty pool", func() (string, bool) {
		entries, err := os.ReadDir(filepath.Join(k.Dir(), "pool"))
		left := ""
		for _, e := range entries {
			if e.Name() != ".lock" {
				left += e.Name() + "\n"
			}
		}
		return left, err == nil && left == ""
	})
	k.until("the end of the loop devices", func() (string, bool) {
		files, _ := filepath.Glob("/sys/block/loop*/loop/backing_file")
		left := ""
		for _, file := range files {
			// Over the images, and kubelet's over those.
			if data, err := os.ReadFile(file); err == nil && strings.Contains(string(data), k.Dir()) {
				left += file + ": " + string(data)
			}
		}
		return left, left == ""
	})
	k.until("the end of the mounts", func() (string, bool) {
		mounts, err := os.ReadFile(fmt.Sprintf("/proc/%d/mountinfo", k.InitPID()))
		left := ""
		for line := range strings.Lines(string(mounts)) {
			if strings.Contains(line, "volumeDevices") || strings.Contains(line, "kubernetes.io~csi") {
				left += line
			}
		}
		return left, err == nil && left == ""
	})
}
