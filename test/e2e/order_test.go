package e2e

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
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
	deletedWhileItIsMade(k)
	sourcesDeletedAtOnce(t, k)
}

// deletedWhileItIsMade: the provisioner has been told to make a volume, and its claim goes.
func deletedWhileItIsMade(k *kube) {
	k.step("claims are deleted as soon as their volumes are to be made")
	var uids []string
	for i := range 4 {
		name := fmt.Sprintf("brief-%d", i)
		k.apply(blockClaim(name, "16Mi", "ReadWriteOnce") + blockPod(name, name, "runc", false))
		uids = append(uids, k.field("pvc/"+name, "{.metadata.uid}"))
		k.soon("pvc/"+name, nodeChosen)
		k.deleteAtOnce("pvc/" + name)
		k.deleteAtOnce("pod/" + name)
	}
	k.until("the end of the claims, and of volumes for them", func() (string, bool) {
		left := k.field("pvc", `{.items[?(@.metadata.name!="kept")].metadata.name}`)
		for _, uid := range uids {
			left += k.field("pv/pvc-"+uid, "{.metadata.name}") + strings.Join(k.volumesNamed("pvc-"+uid), " ")
		}
		return left, left == ""
	})
}

// sourcesDeletedAtOnce: a claim while its snapshot is made, and a snapshot while it is restored.
func sourcesDeletedAtOnce(t *testing.T, k *kube) {
	k.step("a claim is deleted as soon as its snapshot is to be made")
	k.apply(blockClaim("source", "16Mi", "ReadWriteOnce") + blockPod("source", "source", "runc", false))
	k.ready("source")
	k.exec("source", writeBlock)
	source := k.volume("source")
	k.remove("pod/source")
	k.apply(snapshotOf("moment", "source"))
	k.soon("volumesnapshot/moment", "{.status.boundVolumeSnapshotContentName}")
	k.deleteAtOnce("pvc/source")
	k.untilField("volumesnapshot/moment", "{.status.readyToUse}", "true")
	k.gone("source", source)

	k.step("a snapshot is deleted as soon as a volume is to be made from it")
	k.apply(claimOf("restored", "16Mi", "ReadWriteOnce", "katadirect", "volumeMode: Block", "dataSource: {"+fromSnapshot+"moment}") +
		blockPod("restored", "restored", "runc", false))
	k.soon("pvc/restored", nodeChosen)
	k.deleteAtOnce("volumesnapshot/moment")
	// Whichever comes first has its way: the snapshot waits for the volume, or none is made.
	refused := false
	k.until("a pod with the volume, or a refusal", func() (string, bool) {
		said := k.events("pvc/restored")
		refused = strings.Contains(said, "snapshot moment is currently being deleted")
		return said, refused || k.field("pod/restored", "{.status.phase}") == "Running"
	})
	if !refused {
		if got := k.exec("restored", readBlock); got != "content" {
			t.Errorf("the restored volume holds %q", got)
		}
	}
	uid := k.field("pvc/restored", "{.metadata.uid}")
	k.remove("pod/restored", "pvc/restored")
	_, _ = k.tryKubectl("annotate", "volumesnapshot", "moment", "look=again") // its controller does of itself after a quarter of an hour
	k.until("the end of the snapshot, its content and the volume", func() (string, bool) {
		left := k.field("volumesnapshot", "{.items[*].metadata.name}") + k.contents() + strings.Join(k.volumesNamed("pvc-"+uid), " ")
		return left, left == ""
	})
}

// nodeChosen is where a claim says on which node its volume is to be made.
const nodeChosen = `{.metadata.annotations.volume\.kubernetes\.io/selected-node}`

// soon waits until a thing has something at the path, looking closely.
func (k *kube) soon(thing, path string) {
	k.t.Helper()
	for deadline := time.Now().Add(patience); k.field(thing, path) == ""; time.Sleep(2 * time.Millisecond) {
		if time.Now().After(deadline) {
			k.t.Fatalf("%s has no %s: %s", thing, path, k.events(thing))
		}
	}
}

// deleteAtOnce deletes a thing without kubectl, which would have to start first.
func (k *kube) deleteAtOnce(thing string) {
	k.t.Helper()
	path, err := k.pathOf(thing)
	if err == nil {
		_, err = k.api.ask(k.t.Context(), http.MethodDelete, path)
	}
	if err != nil {
		k.t.Fatal(err)
	}
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
