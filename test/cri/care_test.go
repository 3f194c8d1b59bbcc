package cri

import (
	"context"
	"fmt"
	"syscall"
	"testing"
	"time"

	"github.com/katadirect/katadirect/internal/lab"
	"github.com/katadirect/katadirect/pkg/csi/health"
	"github.com/katadirect/katadirect/test/artifacts"
)

// slowWrites are as many operations as 10 in a second, the lowest limit there is, do in fifteen seconds. That is so slow
// that the limit decides, and not what else the host does: without one a write may take more than a twentieth of a second.
const (
	slowLimit  = "10"
	slowWrites = "dd if=/dev/zero of=/data/file bs=4096 count=150 oflag=direct conv=notrunc 2>/dev/null"
	slowTime   = 15 * time.Second
)

func TestLimitsHoldInThePodThatRunsInTheNextAndAfterARestartOfTheDriver(t *testing.T) {
	n := artifacts.Node(t, lab.Debian)
	v := volume(t, n, "ext4")
	pod, mount := podWithVolume(t, n, v, "first")
	c := run(t, pod, "app", idle, mount)
	takes := func(c *lab.Container) time.Duration {
		t.Helper()
		begun := time.Now()
		exec(t, c, slowWrites)
		return time.Since(begun)
	}
	// unlimited tries for a while: a host that does something else meanwhile is slow, too.
	unlimited := func(c *lab.Container, when string) {
		t.Helper()
		var took time.Duration
		for begun := time.Now(); time.Since(begun) < 3*time.Minute; {
			if took = takes(c); took < slowTime*6/10 {
				t.Logf("%s: %v", when, took)
				return
			}
		}
		t.Errorf("%s, 150 writes take %v", when, took)
	}
	limited := func(c *lab.Container, when string) {
		t.Helper()
		took := takes(c)
		t.Logf("%s: %v", when, took)
		if took < slowTime*8/10 {
			t.Errorf("%s, 150 writes took %v: the limit of %s in a second does not hold", when, took, slowLimit)
		}
	}
	unlimited(c, "without a limit")
	if err := v.Modify(t.Context(), map[string]string{"katadirect.io/iops": slowLimit}); err != nil {
		t.Fatal(err)
	}
	limited(c, "in the pod that runs")
	n.Driver().Kill()
	if err := n.StartDriver(t.Context()); err != nil {
		t.Fatal(err)
	}
	removePod(t, pod)
	if err := v.Unpublish(t.Context(), pod.UID); err != nil {
		t.Fatal(err)
	}
	pod, mount = podWithVolume(t, n, v, "second")
	c = run(t, pod, "app", idle, mount)
	limited(c, "in the next pod, published by a driver that was started anew")
	if err := v.Modify(t.Context(), map[string]string{"katadirect.io/iops": "0"}); err != nil {
		t.Fatal(err)
	}
	unlimited(c, "with the limit lifted")
	removePod(t, pod)
}

func TestAGuestThatStopsAnsweringIsToldOfAndItsVolumesLastStatsAreKept(t *testing.T) {
	n := artifacts.Node(t, lab.Debian)
	v := volume(t, n, "ext4")
	pod, mount := podWithVolume(t, n, v, "pod")
	run(t, pod, "app", idle, mount)
	before, err := v.Stats(t.Context(), pod.UID)
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, func(ctx context.Context) string { // on a busy host the guest may be too late for one question
		if wrong, err := v.Health(ctx); err != nil || len(wrong) != 0 {
			return fmt.Sprintf("a healthy volume: %v, %v", wrong, err)
		}
		return ""
	})
	machine := func(sig syscall.Signal) {
		t.Helper()
		pids, err := n.Lab.Find("qemu-system-x86_64", pod.ID)
		if err != nil || len(pids) == 0 {
			t.Fatalf("the pod's machine: %v, %v", pids, err)
		}
		for _, pid := range pids {
			if err := syscall.Kill(pid, sig); err != nil {
				t.Fatal(err)
			}
		}
	}
	machine(syscall.SIGSTOP)
	begun := time.Now()
	for range 3 {
		if usage, err := v.Stats(t.Context(), pod.UID); err != nil || usage != before {
			t.Errorf("of a guest that stands still: %+v, %v; last known were %+v", usage, err, before)
		}
	}
	wrong, err := v.Health(t.Context())
	took := time.Since(begun)
	machine(syscall.SIGCONT)
	if err != nil || wrong[health.GuestSilent] == "" {
		t.Errorf("%v, %v", wrong, err)
	}
	t.Logf("four answers took %v: %v", took, wrong)
	if took > 30*time.Second { // 2 s for the first, whatever the host is busy with
		t.Errorf("four answers took %v", took)
	}
	for deadline := time.Now().Add(time.Minute); len(wrong) != 0; time.Sleep(200 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("the guest goes on, and still it says %v", wrong)
		}
		if wrong, err = v.Health(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	removePod(t, pod)
}
