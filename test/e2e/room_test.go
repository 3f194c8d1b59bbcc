package e2e

import (
	"strings"
	"testing"
)

// roomIsTracked needs the pool of openSuite: what it asks for is measured by that.
func roomIsTracked(t *testing.T, k *kube) {
	k.step("a claim takes most of the pool")
	k.apply(blockClaim("most", "50Gi", "ReadWriteOncePod") + blockPod("most", "most", "runc", false))
	k.ready("most")
	k.step("a pod whose claim does not fit any more stays pending")
	k.apply(blockClaim("more", "20Gi", "ReadWriteOncePod") + blockPod("more", "more", "runc", false))
	k.event("pod/more", "not have enough free storage")
	if phase := k.field("pod/more", "{.status.phase}") + k.field("pvc/more", "{.status.phase}"); phase != "PendingPending" {
		t.Errorf("pod and claim are %s", phase)
	}
	if taken := k.events("pod/most"); strings.Contains(taken, "not have enough") {
		t.Errorf("the first did not fit either: %s", taken)
	}
	k.step("the first goes, the second comes")
	k.remove("pod/most", "pvc/most")
	k.ready("more")
	if size := k.exec("more", blockSize); size != "21474836480" {
		t.Errorf("it has %s bytes", size)
	}
}
