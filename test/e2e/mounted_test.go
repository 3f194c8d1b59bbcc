package e2e

import (
	"strings"
	"testing"
)

// dataKiB is how large the file system at /data is.
const dataKiB = `df -k /data | awk 'END{print $2}'`

// A claim that is made larger while no pod has it grows when the next pod comes: the image before the pod, the file
// system in its guest.
func grownWhileNobodyHasIt(t *testing.T, k *kube) {
	k.step("a volume with a file, and the pod goes")
	k.apply(claim("offline", "64Mi", "ReadWriteOnce") + machinePod("offline", "offline"))
	k.ready("offline")
	k.exec("offline", "echo content > /data/file; sync")
	k.remove("pod/offline")
	k.step("kubectl patch pvc while no pod has it")
	k.grow("offline", "256Mi")
	k.until("that a node is asked for", func() (string, bool) {
		said := k.field("pvc/offline", "{.status.conditions[*].type}")
		return said, strings.Contains(said, "FileSystemResizePending")
	})
	k.step("the next pod has it in the new size")
	k.apply(machinePod("offline-next", "offline"))
	k.ready("offline-next")
	if got := k.exec("offline-next", "cat /data/file; "+dataKiB+" | awk '{print ($1 > 200000)}'"); got != "content\n1" {
		t.Errorf("the next pod sees %q in %s KiB", got, k.exec("offline-next", dataKiB))
	}
	k.untilField("pvc/offline", "{.status.capacity.storage}", "256Mi")
}

// kubelet gives a ReadWriteOnce volume to any number of pods of the node; the driver does not.
func mountedIsOnePods(t *testing.T, k *kube) {
	k.step("two pods, one claim")
	k.apply(claim("one", "64Mi", "ReadWriteOnce") + machinePod("one-first", "one"))
	k.ready("one-first")
	k.exec("one-first", "echo content > /data/file; sync")
	k.apply(machinePod("one-second", "one"))
	k.event("pod/one-second", "one pod at a time", k.ns+"/one-first")
	k.step("the first goes, the second comes")
	k.remove("pod/one-first")
	k.ready("one-second")
	if got := k.exec("one-second", "cat /data/file"); got != "content" {
		t.Errorf("the second pod reads %q", got)
	}
}
