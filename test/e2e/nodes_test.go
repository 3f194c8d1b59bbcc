package e2e

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/katadirect/katadirect/internal/cluster"
)

func twoNodes(t *testing.T, k *kube) {
	const first, second = "node", "node-2"
	k.step("a second node comes, and gets the driver")
	if err := k.AddNode(t.Context()); err != nil {
		t.Fatal(err)
	}

	k.step("claims are made where their pods are")
	k.apply(claim("one", "64Mi", "ReadWriteOnce") + on(first, machinePod("one", "one")) +
		claim("two", "64Mi", "ReadWriteOnce") + on(second, machinePod("two", "two")))
	k.ready("one", "two")
	for claim, node := range map[string]string{"one": first, "two": second} {
		for _, other := range []string{first, second} {
			_, err := os.Stat(filepath.Join(k.PoolOf(other), k.handle(claim)))
			if (err == nil) != (other == node) {
				t.Errorf("claim %s in the pool of %s: %v", claim, other, err)
			}
		}
		affinity := k.field("pv/"+k.field("pvc/"+claim, "{.spec.volumeName}"), "{.spec.nodeAffinity.required.nodeSelectorTerms[*].matchExpressions[*].values[*]}")
		if affinity != node {
			t.Errorf("the volume of claim %s may be used on %q, and is on %s", claim, affinity, node)
		}
	}
	k.direct("two")
	k.exec("two", "echo content > /data/file; sync")

	k.step("the volume of the second node grows: external-resizer asks the first one's driver")
	k.growsOnline("two", "two", "128Mi", 100_000)

	k.step("its snapshot is restored where it is")
	k.apply(snapshotOf("snap", "two"))
	k.untilField("volumesnapshot/snap", "{.status.readyToUse}", "true")
	k.apply(claimFrom("restored", "128Mi", fromSnapshot+"snap") + machinePod("restored", "restored"))
	k.ready("restored")
	if node := k.field("pod/restored", "{.spec.nodeName}"); node != second {
		t.Errorf("the restored volume is on %s", node)
	}
	if got := k.exec("restored", "cat /data/file"); got != "content" {
		t.Errorf("the restored volume reads %q", got)
	}

	k.step("no pod gets the volume on another node, by the scheduler or past it")
	k.remove("pod/two", "pod/restored")
	k.apply(on(first, machinePod("stray", "two")) + past(first, machinePod("smuggled", "two")))
	k.event("pod/stray", "PersistentVolume's node affinity")
	k.event("pod/smuggled", "NodeAffinity")
	for _, pod := range []string{"stray", "smuggled"} {
		if phase := k.field("pod/"+pod, "{.status.phase}"); phase == "Running" {
			t.Errorf("pod %s runs", pod)
		}
	}
	k.remove("pod/stray", "pod/smuggled")

	k.step("with its node cordoned a pod waits, and runs there afterwards")
	k.kubectl("cordon", cluster.SecondNode)
	k.apply(machinePod("three", "two"))
	k.event("pod/three", "unschedulable")
	k.kubectl("uncordon", cluster.SecondNode)
	k.ready("three")
	if got := k.field("pod/three", "{.spec.nodeName}") + " " + k.exec("three", "cat /data/file"); got != second+" content" {
		t.Errorf("node and content are %q", got)
	}
}
