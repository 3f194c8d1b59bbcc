package e2e

import (
	"fmt"
	"os"
	"strings"
	"testing"
)

const (
	writeBlock = "echo content | dd of=/dev/xvda bs=512 seek=9 conv=sync,fsync 2>/dev/null"
	readBlock  = "dd if=/dev/xvda bs=512 skip=9 count=1 2>/dev/null | head -c 7"
	blockSize  = "blockdev --getsize64 /dev/xvda"
)

func rawBlockInAMachine(t *testing.T, k *kube) {
	k.step("a pod with a device")
	k.apply(blockClaim("raw", "64Mi", "ReadWriteOncePod") + blockPod("raw", "raw", "kata", false))
	k.ready("raw")
	if size := k.exec("raw", blockSize); size != fmt.Sprint(64<<20) {
		t.Errorf("the device has %s bytes", size)
	}
	k.exec("raw", writeBlock)
	if host, err := os.ReadFile("/proc/sys/kernel/osrelease"); err != nil || k.exec("raw", "uname -r") == strings.TrimSpace(string(host)) {
		t.Errorf("the pod is in no machine: it has the host's kernel, %v", err)
	}

	k.step("kubectl patch pvc while the pod runs")
	k.grow("raw", "128Mi")
	k.until("the larger device in the pod", func() (string, bool) {
		size := k.says("raw", blockSize)
		return size, size == fmt.Sprint(128<<20)
	})
	k.untilField("pvc/raw", "{.status.capacity.storage}", "128Mi")
	if got := k.exec("raw", readBlock); got != "content" {
		t.Errorf("the grown device holds %q", got)
	}

	k.step("the same volume without a machine, and back")
	// The same volume for a pod without a machine, and back.
	k.remove("pod/raw")
	for _, class := range []string{"runc", "kata"} {
		pod := "raw-" + class
		k.apply(blockPod(pod, "raw", class, false))
		k.ready(pod)
		if got := k.exec(pod, readBlock); got != "content" {
			t.Errorf("under %s it holds %q", class, got)
		}
		if size := k.exec(pod, blockSize); size != fmt.Sprint(128<<20) {
			t.Errorf("under %s it has %s bytes", class, size)
		}
		k.remove("pod/" + pod)
	}
}

func readOnlyRawBlock(t *testing.T, k *kube) {
	k.step("a pod that writes")
	k.apply(blockClaim("rawro", "64Mi", "ReadWriteOnce") + blockPod("rawro-writer", "rawro", "runc", false))
	k.ready("rawro-writer")
	k.exec("rawro-writer", writeBlock)
	k.remove("pod/rawro-writer")
	k.step("pods that may only read")
	for _, class := range []string{"runc", "kata"} {
		pod := "rawro-" + class
		k.apply(blockPod(pod, "rawro", class, true))
		k.ready(pod)
		if got := k.exec(pod, readBlock); got != "content" {
			t.Errorf("under %s it holds %q", class, got)
		}
		if out, err := k.tryKubectl("exec", pod, "--", "sh", "-c", "dd if=/dev/zero of=/dev/xvda count=1 conv=fsync"); err == nil {
			t.Errorf("under %s it was written: %s", class, out)
		}
		k.remove("pod/" + pod)
	}
}

// kubelet gives a ReadWriteOnce volume to any number of pods of the node; the driver does not.
func rawBlockIsOnePods(t *testing.T, k *kube) {
	k.step("two pods, one claim")
	k.apply(blockClaim("rawone", "64Mi", "ReadWriteOnce") + blockPod("rawone-first", "rawone", "runc", false))
	k.ready("rawone-first")
	k.exec("rawone-first", writeBlock)
	k.apply(blockPod("rawone-second", "rawone", "runc", false))
	k.event("pod/rawone-second", "one pod at a time", k.ns+"/rawone-first")
	k.step("the first goes, the second comes")
	k.remove("pod/rawone-first")
	k.ready("rawone-second")
	if got := k.exec("rawone-second", readBlock); !strings.HasPrefix(got, "content") {
		t.Errorf("the second pod reads %q", got)
	}
}
