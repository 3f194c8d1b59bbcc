package e2e

import (
	"testing"
)

func snapshotRestoreAndClone(t *testing.T, k *kube) {
	k.step("a pod that writes")
	k.apply(claim("source", "64Mi", "ReadWriteOncePod") + machinePod("writer", "source"))
	k.ready("writer")
	k.exec("writer", "echo first > /data/file; sync")

	k.step("a snapshot of the volume while the pod has it")
	k.apply(snapshotOf("snap", "source"))
	k.untilField("volumesnapshot/snap", "{.status.readyToUse}", "true")
	k.exec("writer", "echo second > /data/file; sync")

	k.step("a larger volume from the snapshot and a clone of the volume, each in a machine")
	k.apply(claimFrom("restored", "128Mi", fromSnapshot+"snap") + machinePod("restored", "restored") +
		claimFrom("cloned", "64Mi", fromClaim+"source") + machinePod("cloned", "cloned"))
	k.ready("restored", "cloned")
	for pod, want := range map[string]string{"restored": "first", "cloned": "second", "writer": "second"} {
		if got := k.exec(pod, "cat /data/file"); got != want {
			t.Errorf("pod %s reads %q, want %q", pod, got, want)
		}
	}
	if got := k.exec("restored", dataKiB+" | awk '{print ($1 > 100000)}'"); got != "1" {
		t.Errorf("the file system in the larger volume has %s KiB", k.exec("restored", dataKiB))
	}

	k.step("the snapshot goes, and its content with it")
	k.remove("volumesnapshot/snap")
	k.until("the end of the content", func() (string, bool) {
		left := k.contents()
		return left, left == ""
	})
	if got := k.exec("restored", "cat /data/file"); got != "first" {
		t.Errorf("without its snapshot the restored volume reads %q", got)
	}
}

// contents are the names of what there is of snapshots in the scenario's namespace.
func (k *kube) contents() string {
	k.t.Helper()
	return k.field("volumesnapshotcontent", "{.items[?(@.spec.volumeSnapshotRef.namespace==\""+k.ns+"\")].metadata.name}")
}
