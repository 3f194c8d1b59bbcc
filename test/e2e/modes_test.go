package e2e

import (
	"os"
	"strings"
	"testing"
)

// mountOf is the source and type of what the pod has at /data.
func (k *kube) mountOf(pod string) string {
	k.t.Helper()
	for line := range strings.Lines(k.kubectl("exec", pod, "--", "cat", "/proc/mounts")) {
		if words := strings.Fields(line); len(words) > 2 && words[1] == "/data" {
			return words[0] + " " + words[2]
		}
	}
	return ""
}

const claimsMode = "katadirect.io/mode: "

func autoForEachPod(t *testing.T, k *kube) {
	k.step("an ordinary pod gets a mount of the host")
	k.apply(modeClaim("auto", "katadirect-auto", "") + dataPod("auto-plain", "auto", "runc"))
	k.ready("auto-plain")
	if got := k.mountOf("auto-plain"); !strings.HasPrefix(got, "/dev/loop") || !strings.HasSuffix(got, " ext4") {
		t.Errorf("the ordinary pod has %q", got)
	}
	if got := k.exec("auto-plain", "echo content > /data/file; stat -c %g /data/file; cat /data/file"); got != "2000\ncontent" {
		t.Errorf("the ordinary pod's file is %q", got)
	}
	k.step("other pods beside it")
	// Any number of ordinary pods of the node share a ReadWriteOnce volume; a machine does not. It comes after them: kubelet
	// waits longer and longer after a volume's failure, for all of its pods, and may then turn to the same one again.
	k.apply(dataPod("auto-plain-2", "auto", "runc"))
	k.ready("auto-plain-2")
	if got := k.exec("auto-plain-2", "cat /data/file"); got != "content" {
		t.Errorf("the second pod reads %q", got)
	}
	k.remove("pod/auto-plain")
	k.apply(dataPod("auto-machine", "auto", "kata"))
	k.event("pod/auto-machine", "in use by an ordinary pod") // of the two one is left
	if phase := k.field("pod/auto-machine", "{.status.phase}"); phase != "Pending" {
		t.Errorf("beside an ordinary pod the machine is %s", phase)
	}
	k.remove("pod/auto-plain-2")

	k.step("a machine after them")
	k.ready("auto-machine")
	if got := k.mountOf("auto-machine"); !strings.HasPrefix(got, "/dev/vd") || !strings.HasSuffix(got, " ext4") {
		t.Errorf("the pod in a machine has %q", got)
	}
	if got := k.exec("auto-machine", "cat /data/file"); got != "content" {
		t.Errorf("the machine reads %q", got)
	}
	k.remove("pod/auto-machine")

	k.step("the host does not mount what the guest has written")
	k.apply(dataPod("auto-late", "auto", "runc"))
	k.event("pod/auto-late", "a virtual machine has written", "katadirect.io/allowHostMountOfGuestData")
	k.remove("pod/auto-late", "pvc/auto")
}

func directForAnOrdinaryPod(t *testing.T, k *kube) {
	k.step("an ordinary pod is told why it cannot")
	k.apply(modeClaim("direct", "katadirect", "") + dataPod("direct-plain", "direct", "runc"))
	k.event("pod/direct-plain", "virtual machines only", k.ns+"/direct-plain", `RuntimeClass "runc"`, "katadirect.io/mode: auto")
	k.remove("pod/direct-plain")
	k.step("a machine gets it")
	k.apply(dataPod("direct-machine", "direct", "kata"))
	k.ready("direct-machine")
	if got := k.mountOf("direct-machine"); !strings.HasPrefix(got, "/dev/vd") {
		t.Errorf("the pod in a machine has %q", got)
	}
	k.remove("pod/direct-machine", "pvc/direct")
}

func wordsOfClaimAndRuntimeClass(t *testing.T, k *kube) {
	k.step("three pods, of which two get mounts of the host")
	k.apply(`
apiVersion: node.k8s.io/v1
kind: RuntimeClass
metadata: {name: shared, annotations: {katadirect.io/mode: host}}
handler: katadirect
---
` + modeClaim("words-host", "katadirect", claimsMode+"host") + dataPod("words-host", "words-host", "kata") +
		modeClaim("words-class", "katadirect-auto", "") + dataPod("words-class", "words-class", "shared") +
		modeClaim("words-direct", "katadirect-auto", claimsMode+"direct") + dataPod("words-direct", "words-direct", "shared"))
	for _, pod := range []string{"words-host", "words-class"} {
		k.ready(pod)
		if got := k.mountOf(pod); !strings.HasSuffix(got, " virtiofs") {
			t.Errorf("pod %s, whose volume the host mounts, has %q", pod, got)
		}
		if host, err := os.ReadFile("/proc/sys/kernel/osrelease"); err != nil || k.exec(pod, "uname -r") == strings.TrimSpace(string(host)) {
			t.Errorf("pod %s is in no machine: %v", pod, err)
		}
	}
	k.event("pod/words-direct", "virtual machines only", `RuntimeClass "shared" with the annotation`)
	k.remove("pod/words-host", "pod/words-class", "pod/words-direct", "pvc/words-host", "pvc/words-class", "pvc/words-direct",
		"runtimeclass/shared")
}

// The driver loses its rights, and with them the answer.
func lookUpThatFails(t *testing.T, k *kube) {
	k.step("the driver loses its rights")
	k.remove("clusterrolebinding/katadirect-driver")
	defer k.again() // the other scenarios need them
	k.apply(modeClaim("blind", "katadirect-auto", "") + dataPod("blind", "blind", "runc"))
	k.event("pod/blind", "ClusterRole", "docs/modes.md", "forbidden")
	if phase := k.field("pod/blind", "{.status.phase}"); phase != "Pending" {
		t.Errorf("the pod is %s", phase)
	}
	k.step("and has them again")
	k.again()
	k.ready("blind")
	if got := k.mountOf("blind"); !strings.HasPrefix(got, "/dev/loop") {
		t.Errorf("it has %q", got)
	}
	k.remove("pod/blind", "pvc/blind")
}
