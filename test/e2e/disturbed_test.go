package e2e

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/katadirect/katadirect/internal/cluster"
	"github.com/katadirect/katadirect/internal/driverimage"
	"github.com/katadirect/katadirect/test/artifacts"
)

// countingPod writes a line to its volume again and again.
var countingPod = strings.Replace(machinePod("steady", "steady"), `[sleep, "100000"]`, `[sh, -c, "while echo line >> /data/lines; do sleep 0.2; done"]`, 1)

// driverPID is the driver's process id, once kubelet has started it.
func (k *kube) driverPID() int {
	k.t.Helper()
	pid := 0
	k.until("the driver's process", func() (string, bool) {
		pids, err := k.Find("csi-node", "--endpoint")
		if err != nil || len(pids) != 1 {
			return fmt.Sprint(pids, err), false
		}
		pid = pids[0]
		return "", true
	})
	return pid
}

func (k *kube) driverReady() {
	k.t.Helper()
	if err := k.DriverReady(context.WithoutCancel(k.t.Context())); err != nil {
		k.t.Fatal(err)
	}
}

// restartsUnderAPod: everything is restarted, and the pod does not notice.
func restartsUnderAPod(t *testing.T, k *kube) {
	k.step("a pod that writes all the time")
	k.apply(claim("steady", "64Mi", "ReadWriteOncePod") + countingPod)
	k.ready("steady")
	container := k.containerOf("steady")
	goesOn := func() {
		t.Helper()
		before := k.lines()
		k.until("more lines than "+strconv.Itoa(before), func() (string, bool) {
			now := k.lines()
			return strconv.Itoa(now), now > before
		})
		if now := k.containerOf("steady"); now != container {
			t.Errorf("the container was %s and is %s", container, now)
		}
	}
	again := func(name string) {
		t.Helper()
		if err := k.Kill(name); err != nil {
			t.Fatal(err)
		}
		if err := k.Again(t.Context(), name, ""); err != nil {
			t.Fatal(err)
		}
		goesOn()
	}

	k.step("the driver is killed")
	killed := k.driverPID()
	if err := syscall.Kill(killed, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	k.until("another driver", func() (string, bool) { pid := k.driverPID(); return strconv.Itoa(pid), pid != killed })
	k.driverReady()
	goesOn()
	k.growsOnline("steady", "steady", "80Mi", 70_000)

	k.step("the driver is upgraded: kubectl set image")
	k.pushNextDriver()
	k.kubectl("set", "image", "-n", "katadirect", "daemonset/katadirect-node", "csi-node="+nextDriver)
	k.driverReady()
	if got := k.driverVersion(); got != nextVersion {
		t.Errorf("the driver that runs is %q", got)
	}
	goesOn()
	k.growsOnline("steady", "steady", "96Mi", 85_000)

	k.step("and rolled back: kubectl rollout undo")
	k.kubectl("rollout", "undo", "-n", "katadirect", "daemonset/katadirect-node")
	k.driverReady()
	if got := k.driverVersion(); got == nextVersion {
		t.Error("the driver that runs is still the next one")
	}
	goesOn()
	k.growsOnline("steady", "steady", "112Mi", 100_000)

	k.step("kubelet is killed and started")
	again(cluster.Kubelet)
	k.step("containerd is killed and started")
	again(cluster.Containerd)
	k.step("the API server is killed and started")
	again(cluster.APIServer)

	k.step("after all that it grows, and ends, and another has its data")
	k.driverReady()
	k.growsOnline("steady", "steady", "128Mi", 115_000)
	lines := k.lines()
	k.remove("pod/steady")
	k.apply(machinePod("reader", "steady"))
	k.ready("reader")
	if got, err := strconv.Atoi(k.exec("reader", "wc -l < /data/lines")); err != nil || got < lines {
		t.Errorf("%d lines are left of %d: %v", got, lines, err)
	}
}

// lines is how many the pod has written.
func (k *kube) lines() int {
	k.t.Helper()
	n := 0
	k.until("an answer of the pod", func() (string, bool) {
		said, err := k.tryKubectl("exec", "steady", "--", "sh", "-c", "wc -l < /data/lines")
		if err != nil {
			return err.Error(), false
		}
		_, err = fmt.Sscan(said, &n)
		return said, err == nil
	})
	return n
}

const (
	nextVersion = "v99.0.0-next"
	nextDriver  = driverimage.Name + ":next"
)

// pushNextDriver puts a driver into the registry that is another program.
func (k *kube) pushNextDriver() {
	k.t.Helper()
	dir := k.t.TempDir()
	if err := artifacts.Next(k.t.Context(), dir, nextVersion); err != nil {
		k.t.Fatal(err)
	}
	image, err := driverimage.Build(k.t.Context(), driverimage.Options{BinDir: dir, Version: nextVersion})
	if err != nil {
		k.t.Fatal(err)
	}
	if err := k.Push(k.t.Context(), nextDriver, image); err != nil {
		k.t.Fatal(err)
	}
}

// driverVersion is what the driver that runs says of itself.
func (k *kube) driverVersion() string {
	k.t.Helper()
	said := k.kubectl("exec", "-n", "katadirect", "daemonset/katadirect-node", "-c", "csi-node", "--", "csi-node", "--version")
	if words := strings.Fields(said); len(words) > 1 {
		return words[1]
	}
	return said
}

// nodeReboots with a pod in a machine and an ordinary one, both with volumes.
func nodeReboots(t *testing.T, k *kube) {
	k.step("pods with volumes")
	k.apply(claim("steady", "64Mi", "ReadWriteOncePod") + countingPod +
		modeClaim("plain", "katadirect-auto", "") + dataPod("plain", "plain", "runc"))
	k.ready("steady", "plain")
	k.exec("plain", "echo content > /data/file; sync")
	k.exec("steady", "sync")
	lines, uid := k.lines(), k.field("pod/steady", "{.metadata.uid}")

	k.step("the node reboots: every process dies, /run is empty")
	if err := k.Reboot(t.Context()); err != nil {
		t.Fatal(err)
	}
	k.step("the driver comes back, and the same pods with their data")
	for _, pod := range []string{"steady", "plain"} {
		k.until("another start of "+pod, func() (string, bool) {
			said := k.field("pod/"+pod, "{.status.containerStatuses[0]}")
			return said, k.field("pod/"+pod, "{.status.containerStatuses[0].restartCount}") != "0"
		})
	}
	k.ready("steady", "plain")
	k.driverReady()
	if now := k.field("pod/steady", "{.metadata.uid}"); now != uid {
		t.Errorf("the pod was %s and is %s", uid, now)
	}
	if now := k.lines(); now < lines {
		t.Errorf("%d lines are left of %d", now, lines)
	}
	k.direct("steady")
	if got := k.exec("plain", "cat /data/file"); got != "content" {
		t.Errorf("the ordinary pod reads %q", got)
	}
	k.step("the volume grows, and another pod gets one")
	k.growsOnline("steady", "steady", "96Mi", 80_000)
	k.apply(claim("later", "64Mi", "ReadWriteOncePod") + machinePod("later", "later"))
	k.ready("later")
}
