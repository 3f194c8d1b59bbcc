package e2e

import (
	"fmt"
	"strings"
)

// claimOf is a claim; more is what its spec has besides, a line each.
func claimOf(name, size, mode, class string, more ...string) string {
	return fmt.Sprintf(`
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: %s}
spec:
  accessModes: [%s]
  storageClassName: %s
  resources: {requests: {storage: %s}}
%s---`, name, mode, class, size, indented(2, more))
}

// claim is a claim for a volume with a file system.
func claim(name, size, mode string) string { return claimOf(name, size, mode, "katadirect") }

// blockClaim is a claim for a raw block volume.
func blockClaim(name, size, mode string) string {
	return claimOf(name, size, mode, "katadirect", "volumeMode: Block")
}

// modeClaim is a claim of a class; annotations is their YAML.
func modeClaim(name, class, annotations string) string {
	return strings.Replace(claimOf(name, "64Mi", "ReadWriteOnce", class), "metadata: {", "metadata: {annotations: {"+annotations+"}, ", 1)
}

const (
	fromSnapshot = "apiGroup: snapshot.storage.k8s.io, kind: VolumeSnapshot, name: "
	fromClaim    = "kind: PersistentVolumeClaim, name: "
)

// claimFrom is a claim for a volume that begins as a copy of something.
func claimFrom(name, size, source string) string {
	return claimOf(name, size, "ReadWriteOncePod", "katadirect", "dataSource: {"+source+"}")
}

// snapshotOf is a snapshot of a claim's volume.
func snapshotOf(name, claim string) string {
	return fmt.Sprintf(`
apiVersion: snapshot.storage.k8s.io/v1
kind: VolumeSnapshot
metadata: {name: %s}
spec:
  volumeSnapshotClassName: katadirect
  source: {persistentVolumeClaimName: %s}
---`, name, claim)
}

// podOf is a pod whose one container does nothing; more is what its spec has besides, a line each.
func podOf(name, class, container string, more ...string) string {
	return fmt.Sprintf(`
apiVersion: v1
kind: Pod
metadata: {name: %s}
spec:
  runtimeClassName: %s
  terminationGracePeriodSeconds: 0
  containers:
  - name: shell
    image: busybox:1
    command: [sleep, "100000"]
    %s
%s---`, name, class, container, indented(2, more))
}

// What a container says of the volume "data", and what a pod says of it.
const (
	atData   = "volumeMounts: [{name: data, mountPath: /data}]"
	asDevice = "volumeDevices: [{name: data, devicePath: /dev/xvda}]"
)

func dataIs(source string) string { return "volumes: [{name: data, " + source + "}]" }

func ofClaim(name string) string {
	return dataIs("persistentVolumeClaim: {claimName: " + name + "}")
}

// plainPod is a pod without a volume.
func plainPod(name, class string) string { return podOf(name, class, "") }

// machinePod is a pod in a machine, with the claim's volume at /data.
func machinePod(name, claim string) string { return podOf(name, "kata", atData, ofClaim(claim)) }

// dataPod is a pod that has the claim's volume at /data, and a group for it.
func dataPod(name, claim, class string) string {
	return podOf(name, class, atData, "securityContext: {fsGroup: 2000}", ofClaim(claim))
}

// blockPod is a pod that has the claim's device as /dev/xvda, in a machine or not.
func blockPod(name, claim, class string, readOnly bool) string {
	return podOf(name, class, asDevice, dataIs(fmt.Sprintf("persistentVolumeClaim: {claimName: %s, readOnly: %t}", claim, readOnly)))
}

// inlinePod is a pod in a machine with a volume that its spec describes.
func inlinePod(name, size string) string {
	return podOf(name, "kata", atData, "securityContext: {fsGroup: 2000}",
		dataIs(fmt.Sprintf("csi: {driver: csi.katadirect.io, fsType: ext4, volumeAttributes: {katadirect.io/size: %q}}", size)))
}

// memberPod runs as nobody in particular, with a group for its volume.
func memberPod(name, claim string, user, group int, policy string) string {
	return podOf(name, "kata", atData, ofClaim(claim),
		fmt.Sprintf("securityContext: {runAsUser: %d, runAsGroup: %d, fsGroup: %d, fsGroupChangePolicy: %s}", user, user, group, policy))
}

// on puts a pod's manifest on a node, by the scheduler.
func on(node, manifest string) string {
	return strings.Replace(manifest, "spec:\n", "spec:\n  nodeSelector: {kubernetes.io/hostname: "+node+"}\n", 1)
}

// past puts a pod's manifest on a node, past the scheduler.
func past(node, manifest string) string {
	return strings.Replace(manifest, "spec:\n", "spec:\n  nodeName: "+node+"\n", 1)
}

// indented are lines that far from the margin.
func indented(by int, lines []string) string {
	var out strings.Builder
	for _, line := range lines {
		out.WriteString(strings.Repeat(" ", by) + line + "\n")
	}
	return out.String()
}
