package cri

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/katadirect/katadirect/internal/kubelet"
)

// readConfig reads a file of the crictl walk-through as crictl does.
func readConfig[T any](t *testing.T, name string) *T {
	t.Helper()
	data, err := os.ReadFile(filepath.Join("../../docs/crictl", name))
	if err != nil {
		t.Fatal(err)
	}
	config := new(T)
	if err := json.Unmarshal(data, config); err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return config
}

// The walk-through's commands are each one call of the runtime service; these are the calls, with the very files.
func TestTheCrictlWalkThrough(t *testing.T) {
	eachContainerd(t, func(t *testing.T, n *kubelet.Node) {
		client, ctx := n.Lab.CRI(), t.Context()
		pod := readConfig[runtime.PodSandboxConfig](t, "pod.json")
		uid := pod.GetMetadata().GetUid()
		v := volume(t, n, "ext4")
		publish(t, n, v, uid)
		// What is different in the lab: its own folders.
		pod.LogDirectory = filepath.Join(n.Lab.Dir, "pods", uid)
		if err := os.MkdirAll(pod.LogDirectory, 0o755); err != nil {
			t.Fatal(err)
		}
		pod.Linux.CgroupParent = "/katadirect-crictl"

		ran, err := client.RunPodSandbox(ctx, &runtime.RunPodSandboxRequest{Config: pod, RuntimeHandler: kubelet.Handler}) // crictl runp
		if err != nil {
			t.Fatal(err)
		}
		create := func(name string, change func(*runtime.ContainerConfig)) string { // crictl create, crictl start
			t.Helper()
			config := readConfig[runtime.ContainerConfig](t, name)
			change(config)
			made, err := client.CreateContainer(ctx, &runtime.CreateContainerRequest{
				PodSandboxId: ran.GetPodSandboxId(), Config: config, SandboxConfig: pod})
			if err != nil {
				t.Fatal(err)
			}
			if _, err := client.StartContainer(ctx, &runtime.StartContainerRequest{ContainerId: made.GetContainerId()}); err != nil {
				t.Fatal(err)
			}
			return made.GetContainerId()
		}
		logged := func(name, text string) { // crictl logs
			t.Helper()
			eventually(t, func(context.Context) string {
				log, err := os.ReadFile(filepath.Join(pod.LogDirectory, name))
				if err != nil || !strings.Contains(string(log), text) {
					return "the log has no " + text + ": " + string(log)
				}
				return ""
			})
		}
		app := create("container.json", func(*runtime.ContainerConfig) {})
		logged("app.log", "hello from hello")
		database := create("volume-container.json", func(c *runtime.ContainerConfig) {
			if !strings.Contains(c.Mounts[0].HostPath, uid) {
				t.Errorf("the volume's path %s is not the pod's", c.Mounts[0].HostPath)
			}
			c.Mounts[0].HostPath = v.TargetPath(uid)
		})
		logged("database.log", "/dev/vd")

		r, err := client.ExecSync(ctx, &runtime.ExecSyncRequest{ContainerId: app, Cmd: []string{"sh", "-c", "echo $GREETING; hostname"}}) // crictl exec -s
		if err != nil || string(r.GetStdout()) != "hello\nhello\n" {
			t.Errorf("exec printed %q, %v", r.GetStdout(), err)
		}
		stats, err := client.ContainerStats(ctx, &runtime.ContainerStatsRequest{ContainerId: database}) // crictl stats
		if err != nil || stats.GetStats().GetCpu() == nil {
			t.Errorf("figures: %v, %v", stats, err)
		}
		_, err = client.UpdateContainerResources(ctx, &runtime.UpdateContainerResourcesRequest{ // crictl update
			ContainerId: app, Linux: &runtime.LinuxContainerResources{MemoryLimitInBytes: 48 << 20}})
		if err != nil {
			t.Error(err)
		}
		status, err := client.PodSandboxStatus(ctx, &runtime.PodSandboxStatusRequest{PodSandboxId: ran.GetPodSandboxId()}) // crictl inspectp
		if err != nil || status.GetStatus().GetState() != runtime.PodSandboxState_SANDBOX_READY {
			t.Errorf("the pod is %v, %v", status.GetStatus(), err)
		}
		_, err = client.StopPodSandbox(ctx, &runtime.StopPodSandboxRequest{PodSandboxId: ran.GetPodSandboxId()}) // crictl stopp
		if err != nil {
			t.Error(err)
		}
		_, err = client.RemovePodSandbox(ctx, &runtime.RemovePodSandboxRequest{PodSandboxId: ran.GetPodSandboxId()}) // crictl rmp
		if err != nil {
			t.Error(err)
		}
	})
}
