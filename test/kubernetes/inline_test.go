package kubernetes

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
)

// inlinePod is a pod with a volume of its own at /data.
func inlinePod(name, size string) string {
	return fmt.Sprintf(`
apiVersion: v1
kind: Pod
metadata: {name: %s}
spec:
  runtimeClassName: kata
  terminationGracePeriodSeconds: 0
  securityContext: {fsGroup: 2000}
  containers:
  - name: shell
    image: busybox:1
    command: [sleep, "100000"]
    volumeMounts: [{name: data, mountPath: /data}]
  volumes:
  - name: data
    csi:
      driver: csi.katadirect.io
      fsType: ext4
      volumeAttributes: {katadirect.io/size: %q}
---`, name, size)
}

func inlineInAMachine(t *testing.T, k *kube) {
	k.apply(inlinePod("inline", "64Mi"))
	k.ready("inline")
	if got := k.exec("inline", `echo content > /data/file; sync; grep -o ' /data ext4' /proc/mounts; stat -c %g /data/file`); got != "/data ext4\n2000" {
		t.Errorf("/data is %q", got)
	}
	if kib := k.exec("inline", `df -k /data | awk 'END{print ($2 > 40000 && $2 < 65537)}'`); kib != "1" {
		t.Errorf("it has another size: %s", k.exec("inline", "df -k /data"))
	}
	volumes, err := filepath.Glob(filepath.Join(k.Dir(), "pool", "kd-*"))
	if err != nil || len(volumes) != 1 {
		t.Errorf("the pool has %v, %v", volumes, err)
	}
	k.remove("pod/inline")
	for _, volume := range volumes {
		k.until("the end of the volume", func() (string, bool) {
			_, err := os.Stat(volume)
			return volume, os.IsNotExist(err)
		})
	}
}

func inlineThatCannotBe(t *testing.T, k *kube) {
	k.apply(inlinePod("inline-huge", "15Ti"))
	k.event("inline-huge", "not enough space in the pool")
	k.remove("pod/inline-huge")
}
