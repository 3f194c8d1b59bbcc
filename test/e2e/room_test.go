package e2e

import (
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/api/resource"
)

// roomIsTracked needs the pool of openSuite: what it asks for is measured by that.
func roomIsTracked(t *testing.T, k *kube) {
	k.step("a claim takes most of the pool")
	k.apply(blockClaim("most", "50Gi", "ReadWriteOncePod") + blockPod("most", "most", "runc", false))
	k.ready("most")
	k.step("a pod whose claim does not fit any more stays pending")
	k.roomIsLess(20 << 30)
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

// roomIsLess waits until the scheduler can know that there is less room than that. Of a pod that comes before, it asks for
// the volume, which cannot be made, and does not look again before there is more room.
func (k *kube) roomIsLess(bytes int64) {
	k.t.Helper()
	k.until("word of less room", func() (string, bool) {
		said := k.field("capacity", `{.items[?(@.storageClassName=="katadirect")].capacity}`)
		left, err := resource.ParseQuantity(said)
		return said, err == nil && left.Value() < bytes
	})
}
