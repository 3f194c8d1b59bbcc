package e2e

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// attributesClass is one with limits.
func attributesClass(name, parameters string) string {
	return `
apiVersion: storage.k8s.io/v1
kind: VolumeAttributesClass
metadata: {name: ` + name + `}
driverName: csi.katadirect.io
parameters: {` + parameters + `}
---`
}

// limitsOf is what the pool keeps of the limits of the one volume whose claim is bound.
func (k *kube) limitsOf(claim string) string {
	k.t.Helper()
	text, err := os.ReadFile(filepath.Join(k.Pool(), k.handle(claim), "limits.json"))
	if err != nil {
		return err.Error()
	}
	return string(text)
}

// The whole way of a VolumeAttributesClass: at the claim's making, and changed while the pod runs, by external-resizer.
func attributesOfAVolumeInUse(t *testing.T, k *kube) {
	k.step("a claim with a class")
	k.apply(attributesClass("silver", `katadirect.io/iops: "100"`) + attributesClass("gold", `katadirect.io/iops: "500", katadirect.io/bytesPerSecond: "10485760"`))
	limited := strings.Replace(claim("limited", "64Mi", "ReadWriteOnce"), "storageClassName:", "volumeAttributesClassName: silver\n  storageClassName:", 1)
	k.apply(limited + dataPod("limited", "limited", "kata"))
	k.ready("limited")
	has := func(want ...string) {
		t.Helper()
		k.until("the limits "+strings.Join(want, ", "), func() (string, bool) {
			got := k.limitsOf("limited")
			for _, w := range want {
				if !strings.Contains(got, w) {
					return got, false
				}
			}
			return got, true
		})
	}
	has(`"iops":100`, `"class":"silver"`) // the class is from the PersistentVolume, which the driver watches
	k.step("kubectl patch pvc to another class while the pod runs")
	k.kubectl("patch", "pvc", "limited", "--type=merge", "-p", `{"spec":{"volumeAttributesClassName":"gold"}}`)
	has(`"iops":500`, `"bytesPerSecond":10485760`, `"class":"gold"`)
	k.untilField("pvc/limited", "{.status.currentVolumeAttributesClassName}", "gold")
	k.kubectl("delete", "volumeattributesclass", "silver", "gold", "--wait=false") // they go with the claim
}
