package e2e

import (
	"crypto/sha256"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func inlineInAMachine(t *testing.T, k *kube) {
	k.step("a pod with a volume of its own")
	k.apply(inlinePod("inline", "64Mi"))
	k.ready("inline")
	if got := k.exec("inline", `echo content > /data/file; sync; grep -o ' /data ext4' /proc/mounts; stat -c %g /data/file`); got != "/data ext4\n2000" {
		t.Errorf("/data is %q", got)
	}
	if kib := k.exec("inline", `df -k /data | awk 'END{print ($2 > 40000 && $2 < 65537)}'`); kib != "1" {
		t.Errorf("it has another size: %s", k.exec("inline", "df -k /data"))
	}
	k.step("the volume goes with the pod")
	uid := k.field("pod/inline", "{.metadata.uid}")
	if volumes := k.volumesOf(uid); len(volumes) != 1 {
		t.Errorf("the pool has %v", volumes)
	}
	k.remove("pod/inline")
	k.until("the end of the volume", func() (string, bool) {
		left := k.volumesOf(uid)
		return strings.Join(left, " "), len(left) == 0
	})
}

func inlineThatCannotBe(t *testing.T, k *kube) {
	k.step("a pod whose volume does not fit")
	k.apply(inlinePod("inline-huge", "15Ti"))
	k.event("pod/inline-huge", "not enough space in the pool")
	k.remove("pod/inline-huge")
}

// volumesOf are the pod's volumes "data": kubelet names them after the pod's id and the volume's name.
func (k *kube) volumesOf(uid string) []string {
	k.t.Helper()
	return k.volumesNamed(fmt.Sprintf("csi-%x", sha256.Sum256([]byte(uid+"data"))))
}

// volumesNamed are the folders of volumes that the driver was asked for by that name.
func (k *kube) volumesNamed(name string) []string {
	k.t.Helper()
	files, err := filepath.Glob(filepath.Join(k.Pool(), "kd-*", "volume.json"))
	if err != nil {
		k.t.Fatal(err)
	}
	var found []string
	for _, file := range files {
		if text, err := os.ReadFile(file); err == nil && strings.Contains(string(text), name) {
			found = append(found, filepath.Dir(file))
		}
	}
	return found
}
