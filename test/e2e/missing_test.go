package e2e

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/katadirect/katadirect/internal/cluster"
)

// driverIsMissing: what runs goes on, what needs the driver waits and says for what.
func driverIsMissing(t *testing.T, k *kube) {
	k.step("a pod and a claim, and the driver goes from the node")
	k.apply(claim("here", "64Mi", "ReadWriteOnce") + machinePod("here", "here") + blockClaim("raw", "16Mi", "ReadWriteOnce") + blockPod("raw", "raw", "runc", false))
	k.ready("here", "raw")
	k.remove("pod/raw")
	k.kubectl("patch", "-n", "katadirect", "daemonset/katadirect-node", "--type=merge", "-p", `{"spec":{"template":{"spec":{"nodeSelector":{"nowhere":"true"}}}}}`)
	k.until("the end of the driver", func() (string, bool) {
		pids, err := k.Find("csi-node", "--endpoint")
		return "", err == nil && len(pids) == 0
	})

	k.step("the pod goes on; another's events say what is missing; a claim waits")
	k.exec("here", "echo content > /data/file; sync")
	k.apply(blockPod("raw", "raw", "runc", false) + claim("new", "64Mi", "ReadWriteOnce") + machinePod("new", "new"))
	k.event("pod/raw", "csi.katadirect.io not found in the list of registered CSI drivers")
	k.kubectl("delete", "pod", "here", "--wait=false")
	k.event("pvc/new", "Waiting for a volume to be created", "csi.katadirect.io") // its pod's node has been chosen
	if phase := k.field("pvc/new", "{.status.phase}"); phase != "Pending" {
		t.Errorf("claim new is %s", phase)
	}

	k.step("the driver is back, and all that has waited is done")
	k.kubectl("rollout", "undo", "-n", "katadirect", "daemonset/katadirect-node")
	k.driverReady()
	k.ready("raw", "new")
	k.until("the end of pod here", func() (string, bool) {
		phase := k.field("pod/here", "{.status.phase}")
		return phase, phase == ""
	})
	k.apply(machinePod("next", "here"))
	k.ready("next")
	if got := k.exec("next", "cat /data/file"); got != "content" {
		t.Errorf("the next pod reads %q", got)
	}
}

// diskIsFull, of somebody else's: the machine that wants to write stands still, and goes on when there is room again.
func diskIsFull(t *testing.T, k *kube) {
	k.step("a pod that has written something")
	k.apply(claim("data", "256Mi", "ReadWriteOncePod") + machinePod("data", "data"))
	k.ready("data")
	k.exec("data", "dd if=/dev/zero of=/data/some bs=1M count=8 conv=fsync 2>/dev/null")
	container, said := k.containerOf("data"), len(k.Process(cluster.Containerd).Said())

	k.step("somebody fills the pool's disk, and the machine stands still at its next writes")
	stranger := filepath.Join(k.Pool(), "stranger")
	fill(t, k.Pool(), stranger)
	writing := k.start("exec", "data", "--", "sh", "-c",
		"dd if=/dev/urandom of=/data/more bs=1M count=64 conv=fsync 2>/dev/null && md5sum < /data/more > /data/sum && echo written")
	k.until("word of it in the log", func() (string, bool) {
		log := k.Process(cluster.Containerd).Said()[said:]
		return "", strings.Contains(log, "no space left on the host for the disk")
	})

	k.step("a pod with a new claim waits for room")
	k.roomIsLess(16 << 20)
	k.apply(blockClaim("late", "16Mi", "ReadWriteOnce") + blockPod("late", "late", "runc", false))
	k.event("pod/late", "not have enough free storage")

	k.step("there is room again: the machine goes on where it was, and the other pod starts")
	if err := os.Remove(stranger); err != nil {
		t.Fatal(err)
	}
	writing.until("written")
	if got := k.exec("data", "echo 3 > /proc/sys/vm/drop_caches 2>/dev/null; [ \"$(md5sum < /data/more)\" = \"$(cat /data/sum)\" ] && echo whole"); got != "whole" {
		t.Errorf("what was written is not what is there: %s", got)
	}
	if now := k.containerOf("data"); now != container {
		t.Errorf("the container was %s and is %s", container, now)
	}
	k.ready("late")
}

// fill leaves no block of dir's file system to anybody.
func fill(t *testing.T, dir, file string) {
	t.Helper()
	f, err := os.Create(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	t.Cleanup(func() { _ = os.Remove(file) })
	var at int64
	for chunk := int64(1 << 36); chunk >= 1<<16; {
		switch err := unix.Fallocate(int(f.Fd()), 0, at, chunk); err {
		case nil:
			at += chunk
		case unix.ENOSPC:
			chunk /= 2
		case unix.EINTR:
		default:
			t.Fatal(err)
		}
	}
	var left unix.Statfs_t
	if err := unix.Statfs(dir, &left); err != nil || left.Bavail*uint64(left.Bsize) > 4<<20 {
		t.Fatalf("%d blocks of %d are left: %v", left.Bavail, left.Bsize, err)
	}
}
