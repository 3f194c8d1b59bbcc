package e2e

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"
)

// containerOf says which container the pod runs, since when, and how often it was started again.
func (k *kube) containerOf(pod string) string {
	k.t.Helper()
	return k.field("pod/"+pod, "{.metadata.uid} {range .status.containerStatuses[*]}{.containerID} {.state.running.startedAt} {.restartCount}{end}")
}

// inMachine fails the test unless the pod has another kernel than the host.
func (k *kube) inMachine(pod string) {
	k.t.Helper()
	host, err := os.ReadFile("/proc/sys/kernel/osrelease")
	if err != nil || k.exec(pod, "cat /proc/sys/kernel/osrelease") == strings.TrimSpace(string(host)) {
		k.t.Errorf("pod %s is in no machine: it has the host's kernel, %v", pod, err)
	}
}

// direct fails the test unless the pod has ext4 on a disk of its machine at /data.
func (k *kube) direct(pod string) {
	k.t.Helper()
	k.inMachine(pod)
	if got := k.mountOf(pod); !strings.HasPrefix(got, "/dev/vd") || !strings.HasSuffix(got, " ext4") {
		k.t.Errorf("pod %s has %q at /data", pod, got)
	}
}

// growsOnline makes the claim larger while the pod runs, and fails the test unless both the claim and the pod see it and
// the container is the same, not started again.
func (k *kube) growsOnline(pod, claim, size string, leastKiB int) {
	k.t.Helper()
	container := k.containerOf(pod)
	k.grow(claim, size)
	k.until("the new size in the pod", func() (string, bool) {
		kib, _, err := k.tryDf(pod)
		return fmt.Sprint(kib, err), kib >= leastKiB
	})
	k.untilField("pvc/"+claim, "{.status.capacity.storage}", size)
	if now := k.containerOf(pod); now != container {
		k.t.Errorf("the container was %s and is %s", container, now)
	}
}

// df is how large the pod's file system at /data is, and how much of it is used, in KiB.
func (k *kube) df(pod string) (kib, used int) {
	k.t.Helper()
	kib, used, err := k.tryDf(pod)
	if err != nil {
		k.t.Fatal(err)
	}
	return kib, used
}

// tryDf is df for what is asked again and again.
func (k *kube) tryDf(pod string) (kib, used int, err error) {
	out, err := k.tryKubectl("exec", pod, "--", "df", "-k", "/data")
	if err != nil {
		return 0, 0, err
	}
	said := strings.Fields(out)
	if len(said) < 6 {
		return 0, 0, fmt.Errorf("df in pod %s says %q", pod, out)
	}
	figures := strings.Join(said[len(said)-5:len(said)-3], " ") // a long device has a line of its own
	if _, err := fmt.Sscan(figures, &kib, &used); err != nil {
		return 0, 0, fmt.Errorf("df in pod %s says %q: %w", pod, out, err)
	}
	return kib, used, nil
}

// walkThrough is the way of the README.
func walkThrough(t *testing.T, k *kube) {
	k.step("a claim waits for its first consumer")
	k.apply(claim("data", "64Mi", "ReadWriteOncePod"))
	k.event("pvc/data", "waiting for first consumer")
	if phase := k.field("pvc/data", "{.status.phase}"); phase != "Pending" {
		t.Errorf("the claim is %s", phase)
	}

	k.step("it is bound when a pod comes, which sees ext4 on a disk of its machine")
	k.apply(machinePod("first", "data"))
	k.ready("first")
	k.untilField("pvc/data", "{.status.phase}", "Bound")
	k.direct("first")
	k.exec("first", "echo content > /data/file; sync")

	k.step("a second pod with the ReadWriteOncePod claim stays pending")
	k.apply(machinePod("second", "data"))
	k.event("pod/second", "ReadWriteOncePod")
	if phase := k.field("pod/second", "{.status.phase}"); phase != "Pending" {
		t.Errorf("the second pod is %s", phase)
	}
	k.remove("pod/second")

	k.step("kubectl patch pvc: the claim and df in the pod grow, the container goes on")
	k.growsOnline("first", "data", "192Mi", 150_000)

	k.step("kubelet's figures are the guest's")
	k.exec("first", "dd if=/dev/zero of=/data/zeros bs=1M count=20 2>/dev/null; sync")
	kib, used := k.df("first")
	df := fmt.Sprint(kib, " ", used)
	k.until("the summary's figures to be "+df, func() (string, bool) {
		got := k.summaryOf("data")
		return got, got == df
	})
	k.until("the metrics' figures to be "+df, func() (string, bool) {
		got := k.metricKiB("kubelet_volume_stats_capacity_bytes", "data") + " " + k.metricKiB("kubelet_volume_stats_used_bytes", "data")
		return got, got == df
	})

	k.step("the next pod finds the data")
	k.remove("pod/first")
	k.apply(machinePod("third", "data"))
	k.ready("third")
	if got := k.exec("third", "cat /data/file; "+dataKiB+" | awk '{print ($1 > 150000)}'"); got != "content\n1" {
		t.Errorf("the next pod reads %q", got)
	}
}

// summaryOf is how large and how full kubelet's /stats/summary says that a claim's volume is, in KiB.
func (k *kube) summaryOf(claim string) string {
	k.t.Helper()
	raw, err := k.api.get(k.t.Context(), "/api/v1/nodes/node/proxy/stats/summary")
	if err != nil {
		return err.Error()
	}
	field := func(name string) string {
		got, err := jsonField(raw, fmt.Sprintf(`{range .pods[?(@.podRef.namespace==%q)]}{range .volume[?(@.pvcRef.name==%q)]}{.%s}{end}{end}`, k.ns, claim, name))
		if err != nil {
			return err.Error()
		}
		return inKiB(got)
	}
	return field("capacityBytes") + " " + field("usedBytes")
}

// metricKiB is one of kubelet's figures of a claim's volume, in KiB.
func (k *kube) metricKiB(name, claim string) string {
	k.t.Helper()
	raw, err := k.api.get(k.t.Context(), "/api/v1/nodes/node/proxy/metrics")
	if err != nil {
		return err.Error()
	}
	for line := range strings.Lines(string(raw)) {
		labels := fmt.Sprintf("%s{namespace=%q,persistentvolumeclaim=%q} ", name, k.ns, claim)
		if value, ok := strings.CutPrefix(line, labels); ok {
			return inKiB(strings.TrimSpace(value))
		}
	}
	return ""
}

func inKiB(value string) string {
	number, err := strconv.ParseFloat(value, 64)
	if err != nil {
		return value
	}
	return strconv.FormatInt(int64(number)/1024, 10)
}
