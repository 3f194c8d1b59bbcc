package e2e

import (
	"os"
	"path/filepath"
	"testing"
)

// awkwardOrders deletes things while others need them.
func awkwardOrders(t *testing.T, k *kube) {
	k.step("the claim is deleted first: it waits for its pod")
	k.apply(`
apiVersion: storage.k8s.io/v1
kind: StorageClass
metadata: {name: passing}
provisioner: csi.katadirect.io
parameters: {csi.storage.k8s.io/fstype: ext4}
volumeBindingMode: WaitForFirstConsumer
---
apiVersion: node.k8s.io/v1
kind: RuntimeClass
metadata: {name: passing}
handler: katadirect
---` + modeClaim("first", "passing", "") + dataPod("first", "first", "passing") +
		claim("kept", "64Mi", "ReadWriteOnce") + machinePod("kept", "kept"))
	k.ready("first", "kept")
	volume := k.volume("first")
	k.kubectl("delete", "pvc", "first", "--wait=false")
	k.kubectl("delete", "pv", k.field("pvc/first", "{.spec.volumeName}"), "--wait=false")
	k.kubectl("delete", "storageclass", "passing")
	k.kubectl("delete", "runtimeclass", "passing")
	k.exec("first", "echo content > /data/file; sync")
	if got := k.field("pvc/first", "{.metadata.deletionTimestamp}"); got == "" {
		t.Error("the claim is not going")
	}
	k.step("the pod goes then, and with it claim and volume, without their classes")
	k.remove("pod/first")
	k.gone("first", volume)

	k.step("a pod is deleted by force; the next has its data")
	k.exec("kept", "echo content > /data/file; sync")
	k.kubectl("delete", "pod", "kept", "--force", "--grace-period=0")
	k.apply(machinePod("kept", "kept"))
	k.ready("kept")
	if got := k.exec("kept", "cat /data/file"); got != "content" {
		t.Errorf("it reads %q", got)
	}

	k.step("everything is deleted while it is being made")
	k.apply(claim("hasty", "64Mi", "ReadWriteOnce") + machinePod("hasty", "hasty"))
	k.until("a node for the pod", func() (string, bool) {
		got := k.field("pod/hasty", "{.spec.nodeName}")
		return got, got != ""
	})
	volume = k.volume("hasty")
	k.remove("pod/hasty", "pvc/hasty")
	k.gone("hasty", volume)

	k.step("a claim that nobody has used yet is deleted")
	k.apply(claim("unused", "64Mi", "ReadWriteOnce"))
	k.remove("pvc/unused")
}

// volume is the folder of a claim's volume, once it is bound.
func (k *kube) volume(claim string) string {
	k.t.Helper()
	k.untilField("pvc/"+claim, "{.status.phase}", "Bound")
	volume := filepath.Join(k.Pool(), k.handle(claim))
	if _, err := os.Stat(volume); err != nil {
		k.t.Error(err)
	}
	return volume
}

// gone waits for the end of a claim and its volume.
func (k *kube) gone(claim, volume string) {
	k.t.Helper()
	k.until("the end of claim "+claim+" and its volume", func() (string, bool) {
		_, err := os.Stat(volume)
		phase := k.field("pvc/"+claim, "{.status.phase}")
		return "the claim is " + phase + ", the volume is in " + volume, phase == "" && os.IsNotExist(err)
	})
}

// namespaceGoes with everything in use.
func namespaceGoes(t *testing.T, k *kube) {
	k.step("pods with volumes of all kinds, a snapshot and a clone")
	k.apply(claim("data", "64Mi", "ReadWriteOncePod") + machinePod("data", "data") +
		blockClaim("raw", "16Mi", "ReadWriteOnce") + blockPod("raw", "raw", "runc", false) +
		modeClaim("auto", "katadirect-auto", "") + dataPod("auto", "auto", "runc") + inlinePod("inline", "64Mi"))
	k.ready("data", "raw", "auto", "inline")
	k.apply(snapshotOf("snap", "data") + claimFrom("cloned", "64Mi", fromClaim+"data") + machinePod("cloned", "cloned"))
	k.untilField("volumesnapshot/snap", "{.status.readyToUse}", "true")
	var volumes []string
	for _, claim := range []string{"data", "raw", "auto"} {
		volumes = append(volumes, k.volume(claim))
	}
	volumes = append(volumes, k.volumesOf(k.field("pod/inline", "{.metadata.uid}"))...)
	k.step("kubectl delete namespace")
	k.remove("namespace/" + k.ns)
	k.until("the end of their volumes", func() (string, bool) {
		left := ""
		for _, volume := range volumes {
			if _, err := os.Stat(volume); err == nil {
				left += volume + "\n"
			}
		}
		return left, left == ""
	})
	k.kubectl("create", "namespace", k.ns) // which play takes away
}
