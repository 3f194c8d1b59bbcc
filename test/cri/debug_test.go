package cri

import (
	"bytes"
	"encoding/json"
	"errors"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"

	"github.com/katadirect/katadirect/internal/guestimage"
	"github.com/katadirect/katadirect/internal/kubelet"
	"github.com/katadirect/katadirect/internal/lab"
	"github.com/katadirect/katadirect/pkg/directvolume"
	"github.com/katadirect/katadirect/test/artifacts"
)

// debugNode is a node whose machines have a debug console, and whose shims tell what the guest says.
func debugNode(t *testing.T) *kubelet.Node {
	t.Helper()
	image, err := guestimage.Build(t.Context(), guestimage.Options{
		Output: filepath.Join(t.TempDir(), "guest"), AgentPath: filepath.Join(artifacts.BinDir, "agent"), Debug: true,
	})
	if err != nil {
		t.Fatal(err)
	}
	options := artifacts.NodeOptions(lab.Debian)
	options.Image = image
	options.Config = "[agent.kata]\nenable_debug = true\ndebug_console_enabled = true\n"
	return artifacts.NodeWith(t, options)
}

// katadirect runs the operator's tool on the node. Its status is in the error.
func katadirect(t *testing.T, n *kubelet.Node, args ...string) (string, error) {
	t.Helper()
	return n.Lab.Run(t.Context(), lab.Command{Name: "katadirect", Path: filepath.Join(artifacts.BinDir, "katadirect"), Args: args})
}

// tool is katadirect where nothing may fail.
func tool(t *testing.T, n *kubelet.Node, args ...string) string {
	t.Helper()
	out, err := katadirect(t, n, args...)
	if err != nil {
		t.Fatalf("katadirect %q: %v\n%s", args, err, out)
	}
	return out
}

// What a person has who looks for a fault, and a driver that takes a copy, in one pod.
func TestLookingIntoAPodAndFreezingItsVolume(t *testing.T) {
	n := debugNode(t)
	v := volume(t, n, "ext4")
	pod, mount := podWithVolume(t, n, v, "pod")
	c := run(t, pod, "app", `i=0; while :; do i=$((i+1)); echo $i >/data/n; sync /data/n; echo $i >/dev/shm/n; done`, mount)
	count := func() string { return exec(t, c, "cat /dev/shm/n 2>/dev/null; true") }
	goesOn := func() {
		t.Helper()
		before := count()
		for deadline := time.Now().Add(time.Minute); count() == before; time.Sleep(100 * time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatal("the writer still waits")
			}
		}
	}
	goesOn()

	t.Run("exec", func(t *testing.T) {
		id := pod.ID[:12]
		if out := tool(t, n, "exec", id, "--", "cat", "/proc/uptime"); len(strings.Fields(out)) != 2 {
			t.Errorf("uptime %q", out)
		}
		if out := tool(t, n, "exec", id, "--", "sh", "-c", "cat /proc/1/comm; ls -d "+directvolumeFolder); !strings.HasPrefix(out, "init\n") && !strings.HasPrefix(out, "agent\n") {
			t.Errorf("not the guest itself: %q", out)
		}
		if out, err := katadirect(t, n, "exec", id, "--", "sh", "-c", "echo err >&2; exit 9"); err == nil || !strings.Contains(err.Error(), "9") || out != "err\n" {
			t.Errorf("%q, %v", out, err)
		}
		if out := tool(t, n, "exec", "--tty", id, "--", "sh", "-c", "test -t 0 && stty size && echo $TERM"); !strings.HasPrefix(out, "24 80\r\n") {
			t.Errorf("on a terminal: %q", out)
		}
		if out := tool(t, n, "exec", id, "--", "head", "-c", "3000000", "/dev/zero"); len(out) != 3_000_000 {
			t.Errorf("%d bytes came", len(out))
		}
		if out, err := katadirect(t, n, "exec", "0000nobody", "--", "true"); err == nil || !strings.Contains(err.Error(), "125") || !strings.Contains(out, "no living sandbox") {
			t.Errorf("%q, %v", out, err)
		}
	})
	t.Run("what is mounted for a container goes with it", func(t *testing.T) {
		mounts := func() string { return tool(t, n, "exec", pod.ID, "--", "grep", "-c", "virtiofs", "/proc/mounts") }
		host := lab.Mount{HostPath: t.TempDir(), ContainerPath: "/host"}
		before := mounts()
		for range 2 {
			other := run(t, pod, "other", "ls /host >/dev/null; "+idle, host)
			if during := mounts(); during == before {
				t.Errorf("there are %s mounts with one container more: it is looked for in the wrong place", during)
			}
			if err := errors.Join(other.Stop(t.Context(), 0), other.Remove(t.Context())); err != nil {
				t.Fatal(err)
			}
		}
		after := mounts()
		for deadline := time.Now().Add(time.Minute); after != before && time.Now().Before(deadline); after = mounts() {
			time.Sleep(200 * time.Millisecond)
		}
		if after != before {
			t.Errorf("%s mounts of the share have become %s", before, after)
		}
		goesOn()
	})
	t.Run("metrics", func(t *testing.T) {
		text, err := n.Metrics(t.Context(), pod)
		if err != nil {
			t.Fatal(err)
		}
		parser := expfmt.NewTextParser(model.LegacyValidation)
		families, err := parser.TextToMetricFamilies(bytes.NewReader(text))
		if err != nil {
			t.Fatalf("%v\n%s", err, text)
		}
		for _, name := range []string{
			"kata_shim_threads", "kata_shim_io_stat", "kata_shim_agent_rpc_durations_histogram_milliseconds",
			"kata_hypervisor_threads", "kata_hypervisor_proc_stat", "kata_virtiofsd_fds",
			"kata_guest_meminfo", "kata_guest_load", "kata_guest_cpu_time", "kata_guest_diskstat", "kata_agent_total_rss",
		} {
			if len(families[name].GetMetric()) == 0 {
				t.Errorf("no %s", name)
			}
		}
	})
	t.Run("freeze and thaw", func(t *testing.T) {
		device := recordOf(t, n)
		id := strings.TrimSpace(tool(t, n, "volume", "freeze", device.VolumePath, "--limit", "60s"))
		count()
		before := count()
		time.Sleep(300 * time.Millisecond)
		if after := count(); after != before {
			t.Errorf("the writer went from %s to %s", before, after)
		}
		var listed []directvolume.SandboxVolume
		if err := json.Unmarshal([]byte(tool(t, n, "volume", "list", "--sandbox", pod.ID, "-o", "json")), &listed); err != nil {
			t.Fatal(err)
		}
		if len(listed) != 1 || listed[0].Frozen == nil || !strings.HasPrefix(listed[0].GuestDevice, "/dev/vd") || listed[0].FSType != "ext4" ||
			listed[0].SizeBytes != gibibyte || len(listed[0].Containers) != 1 || listed[0].Condition == nil || listed[0].VolumeID == "" {
			t.Errorf("listed %+v", listed)
		}
		tool(t, n, "volume", "thaw", device.VolumePath, "--id", id)
		goesOn()
		if out, err := katadirect(t, n, "volume", "thaw", device.VolumePath, "--id", id); err == nil || !strings.Contains(err.Error(), "7") {
			t.Errorf("%q, %v", out, err)
		}
	})
	t.Run("the log has what the guest says", func(t *testing.T) {
		said := n.Lab.Containerd().Said()
		for _, want := range []string{"guest console", "answered", "sandbox=" + pod.ID} { // the agent's own, at debug level
			if !strings.Contains(said, want) {
				t.Errorf("no %q in the log", want)
			}
		}
	})
	t.Run("a pod goes at once with its volume frozen", func(t *testing.T) {
		tool(t, n, "volume", "freeze", recordOf(t, n).VolumePath, "--limit", "60s")
		began := time.Now()
		if err := c.Stop(t.Context(), 2); err != nil {
			t.Error(err)
		}
		removePod(t, pod)
		if took := time.Since(began); took > 50*time.Second {
			t.Errorf("it took %v", took)
		}
	})
}

const directvolumeFolder = "/run/kata-containers/sandbox/storage"

// recordOf is the only record of the node.
func recordOf(t *testing.T, n *kubelet.Node) directvolume.Entry {
	t.Helper()
	entries, err := n.Records().List(t.Context())
	if err != nil || len(entries) != 1 {
		t.Fatalf("%d records, %v", len(entries), err)
	}
	return entries[0]
}
