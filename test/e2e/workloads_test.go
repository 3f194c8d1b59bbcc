package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
)

// counting is a StatefulSet each of whose pods writes a line to its volume when it starts.
const counting = `
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: counting}
spec:
  replicas: 2
  serviceName: counting
  podManagementPolicy: Parallel
  selector: {matchLabels: {app: counting}}
  template:
    metadata: {labels: {app: counting}}
    spec:
      runtimeClassName: kata
      terminationGracePeriodSeconds: 0
      containers:
      - name: shell
        image: busybox:1
        command: [sh, -c, "echo $HOSTNAME >> /data/starts; sync; touch /tmp/written; exec sleep 100000"]
        env: [{name: HOSTNAME, valueFrom: {fieldRef: {fieldPath: metadata.name}}}]
        readinessProbe: {exec: {command: [test, -e, /tmp/written]}, periodSeconds: 2, timeoutSeconds: 30}
        volumeMounts: [{name: data, mountPath: /data}]
  volumeClaimTemplates:
  - metadata: {name: data}
    spec:
      accessModes: [ReadWriteOncePod]
      storageClassName: katadirect
      resources: {requests: {storage: 64Mi}}
---`

func rollingRestart(t *testing.T, k *kube) {
	status := []string{"rollout", "status", "statefulset/counting", "--timeout=" + patience.String()}
	k.step("a StatefulSet of two")
	k.apply(counting)
	k.kubectl(status...)
	k.step("kubectl rollout restart")
	k.kubectl("rollout", "restart", "statefulset/counting")
	k.kubectl(status...)
	for _, pod := range []string{"counting-0", "counting-1"} {
		if got := k.exec(pod, "cat /data/starts"); got != pod+"\n"+pod {
			t.Errorf("the volume of %s holds %q", pod, got)
		}
	}
}

func groupsOfVolumes(t *testing.T, k *kube) {
	policies := map[string]string{"always": "Always", "root": "OnRootMismatch"}
	k.step("two pods without root write, under either policy")
	for claimName, policy := range policies {
		k.apply(claim(claimName, "64Mi", "ReadWriteOncePod") + memberPod(claimName+"-1", claimName, 1000, 2000, policy))
	}
	k.ready("always-1", "root-1")
	for claimName := range policies {
		if got := k.exec(claimName+"-1", "id -u; echo content > /data/file; chmod 660 /data/file; sync; stat -c '%u %g' /data/file"); got != "1000\n1000 2000" {
			t.Errorf("%s: %q", claimName, got)
		}
	}
	k.step("others with another group read that")
	k.remove("pod/always-1", "pod/root-1")
	for claimName, policy := range policies {
		k.apply(memberPod(claimName+"-2", claimName, 1001, 3000, policy))
	}
	k.ready("always-2", "root-2")
	for claimName := range policies {
		if got := k.exec(claimName+"-2", "cat /data/file; echo more >> /data/file; stat -c '%u %g' /data/file"); got != "content\n1000 3000" {
			t.Errorf("%s: %q", claimName, got)
		}
		k.exec(claimName+"-2", "echo stray > /data/stray; chgrp 1001 /data/stray; sync")
	}
	k.step("in a volume that is the group's already, a file that is not is only Always's")
	k.remove("pod/always-2", "pod/root-2")
	for claimName, policy := range policies {
		k.apply(memberPod(claimName+"-3", claimName, 1001, 3000, policy))
	}
	k.ready("always-3", "root-3")
	for claimName, want := range map[string]string{"always": "3000 3000", "root": "3000 1001"} {
		if got := k.exec(claimName+"-3", "echo $(stat -c %g /data /data/stray)"); got != want {
			t.Errorf("%s: folder and file have the groups %s, want %s", claimName, got, want)
		}
	}
}

func subPaths(t *testing.T, k *kube) {
	k.step("a pod that mounts folders of its volume, one of its own name, and the whole in another container")
	k.apply(claim("data", "64Mi", "ReadWriteOncePod") + `
apiVersion: v1
kind: Pod
metadata: {name: parts}
spec:
  runtimeClassName: kata
  terminationGracePeriodSeconds: 0
  containers:
  - name: parts
    image: busybox:1
    command: [sleep, "100000"]
    env: [{name: POD_NAME, valueFrom: {fieldRef: {fieldPath: metadata.name}}}]
    volumeMounts:
    - {name: data, mountPath: /one, subPath: one}
    - {name: data, mountPath: /two, subPath: deep/two}
    - {name: data, mountPath: /own, subPathExpr: of/$(POD_NAME)}
  - name: whole
    image: busybox:1
    command: [sleep, "100000"]
    volumeMounts: [{name: data, mountPath: /data, readOnly: true}]
  volumes:
  - name: data
    persistentVolumeClaim: {claimName: data}
---`)
	k.ready("parts")
	k.kubectl("exec", "parts", "-c", "parts", "--", "sh", "-c", "echo 1 > /one/file; echo 2 > /two/file; echo 3 > /own/file")
	if got := k.kubectl("exec", "parts", "-c", "whole", "--", "cat", "/data/one/file", "/data/deep/two/file", "/data/of/parts/file"); got != "1\n2\n3\n" {
		t.Errorf("the whole holds %q", got)
	}
	if out, err := k.tryKubectl("exec", "parts", "-c", "whole", "--", "touch", "/data/file"); err == nil {
		t.Errorf("the read-only mount was written: %s", out)
	}
}

func ephemeralVolume(t *testing.T, k *kube) {
	k.step("a pod with a claim of its own")
	k.apply(podOf("passing", "kata", atData, dataIs("ephemeral: {volumeClaimTemplate: {spec: {"+
		"accessModes: [ReadWriteOncePod], storageClassName: katadirect, resources: {requests: {storage: 64Mi}}}}}")))
	k.ready("passing")
	k.direct("passing")
	volume := filepath.Join(k.Pool(), k.handle("passing-data"))
	if _, err := os.Stat(volume); err != nil {
		t.Error(err)
	}
	k.step("the pod goes, with its claim and the volume")
	k.remove("pod/passing")
	k.until("the end of claim and volume", func() (string, bool) {
		_, err := os.Stat(volume)
		phase := k.field("pvc/passing-data", "{.status.phase}")
		return fmt.Sprintf("the claim is %q, the volume %v", phase, err), phase == "" && os.IsNotExist(err)
	})
}
