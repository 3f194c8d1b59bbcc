package e2e

import (
	"strings"
	"testing"
)

func badInput(t *testing.T, k *kube) {
	k.step("a StorageClass with a parameter that there is not: the claim's events say which")
	k.apply(`
apiVersion: storage.k8s.io/v1
kind: StorageClass
metadata: {name: misspelt}
provisioner: csi.katadirect.io
parameters: {csi.storage.k8s.io/fstype: ext4, katadirect.io/colour: blue}
volumeBindingMode: WaitForFirstConsumer
---
apiVersion: storage.k8s.io/v1
kind: StorageClass
metadata: {name: unheard-of}
provisioner: csi.katadirect.io
parameters: {csi.storage.k8s.io/fstype: ntfs}
volumeBindingMode: WaitForFirstConsumer
---` + modeClaim("misspelt", "misspelt", "") + dataPod("misspelt", "misspelt", "kata") +
		modeClaim("unheard-of", "unheard-of", "") + dataPod("unheard-of", "unheard-of", "kata"))
	k.event("pvc/misspelt", "katadirect.io/colour")
	k.event("pvc/unheard-of", "ntfs")
	for _, claim := range []string{"misspelt", "unheard-of"} {
		if phase := k.field("pvc/"+claim, "{.status.phase}"); phase != "Pending" {
			t.Errorf("claim %s is %s", claim, phase)
		}
	}
	k.remove("storageclass/misspelt", "storageclass/unheard-of")

	k.step("a RuntimeClass that there is not: kubectl says so")
	if out, err := k.tryApply(dataPod("nowhere", "misspelt", "nosuch")); err == nil || !strings.Contains(err.Error(), `RuntimeClass "nosuch" not found`) {
		t.Errorf("it was taken: %s, %v", out, err)
	}

	k.step("a runtime that is not installed on the node: the pod's events say so")
	k.apply(`
apiVersion: node.k8s.io/v1
kind: RuntimeClass
metadata: {name: elsewhere}
handler: elsewhere
---` + dataPod("homeless", "homeless", "elsewhere") + modeClaim("homeless", "katadirect-auto", ""))
	k.event("pod/homeless", `no runtime for "elsewhere" is configured`)

	k.step("the classes' pods and claims go")
	k.remove("pod/misspelt", "pod/unheard-of", "pod/homeless", "pvc/misspelt", "pvc/unheard-of", "pvc/homeless", "runtimeclass/elsewhere")
}

func neverSmaller(t *testing.T, k *kube) {
	k.step("a claim cannot shrink, and its pod does not notice that somebody has tried")
	k.apply(claim("data", "128Mi", "ReadWriteOncePod") + machinePod("data", "data"))
	k.ready("data")
	was := k.exec("data", dataKiB)
	if out, err := k.tryKubectl("patch", "pvc", "data", "-p", `{"spec":{"resources":{"requests":{"storage":"64Mi"}}}}`); err == nil || !strings.Contains(err.Error(), "less than") {
		t.Errorf("it was taken: %s, %v", out, err)
	}
	if now := k.exec("data", dataKiB); now != was {
		t.Errorf("the file system had %s KiB and has %s", was, now)
	}

	k.step("a size that no pool can have: the claim's events say so, the pod goes on")
	k.grow("data", "100Ti")
	k.event("pvc/data", "VolumeResizeFailed", "109951162777600 bytes are more than the 17592186044416 bytes a volume with ext4 can have")
	if now := k.exec("data", dataKiB+"; touch /data/file"); now != was {
		t.Errorf("the file system had %s KiB and has %s", was, now)
	}
	k.step("and with a size that can be it grows")
	k.growsOnline("data", "data", "192Mi", 150_000)
}
