// Package cri tries the shim, the guest and the driver through the interface that kubelet uses, with a real
// containerd of each kind and real machines.
package cri

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/katadirect/katadirect/internal/demo"
	"github.com/katadirect/katadirect/internal/kubelet"
	"github.com/katadirect/katadirect/internal/lab"
	"github.com/katadirect/katadirect/test/artifacts"
)

func TestMain(m *testing.M) { artifacts.Main(m) }

const (
	gibibyte = 1 << 30
	// idle keeps a container running until it is asked to end.
	idle = `trap "exit 0" TERM; while :; do sleep 1 & wait; done`
)

// eachContainerd runs the test on a node of each kind.
func eachContainerd(t *testing.T, test func(*testing.T, *kubelet.Node)) {
	for _, flavour := range lab.Flavours {
		t.Run("containerd "+string(flavour), func(t *testing.T) { test(t, artifacts.Node(t, flavour)) })
	}
}

// testLog writes the demo's lines to the test's log.
type testLog struct{ t *testing.T }

func (l testLog) Write(p []byte) (int, error) {
	l.t.Log(strings.TrimRight(string(p), "\n"))
	return len(p), nil
}

func TestTheDemo(t *testing.T) {
	for _, flavour := range lab.Flavours {
		t.Run("containerd "+string(flavour), func(t *testing.T) {
			report, err := demo.Run(t.Context(), demo.Options{Node: artifacts.NodeOptions(flavour), Out: testLog{t}})
			if err != nil {
				t.Fatal(err)
			}
			if report.Accel != "kvm" && report.Accel != "tcg" {
				t.Errorf("machines run by %q", report.Accel)
			}
			if report.BootMS <= 0 || report.HotplugMS <= 0 || report.ResizeMS <= 0 {
				t.Errorf("boot %v ms, hot-plug %v ms, resize %v ms: all must be measured",
					report.BootMS, report.HotplugMS, report.ResizeMS)
			}
		})
	}
}

// runPod runs a pod in a machine.
func runPod(t *testing.T, n *kubelet.Node, name string) *lab.Pod {
	t.Helper()
	pod, err := n.Lab.RunPod(t.Context(), lab.PodSpec{Name: name, Handler: kubelet.Handler})
	if err != nil {
		t.Fatal(err)
	}
	return pod
}

// run runs a container with a shell script, which must start.
func run(t *testing.T, pod *lab.Pod, name, script string, mounts ...lab.Mount) *lab.Container {
	t.Helper()
	c, err := pod.Run(t.Context(), lab.ContainerSpec{Name: name, Command: []string{"sh", "-c", script}, Mounts: mounts})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// exec runs a shell script in the container, which must succeed, and returns what it printed.
func exec(t *testing.T, c *lab.Container, script string) string {
	t.Helper()
	out, err := c.Exec(t.Context(), "sh", "-c", script)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// removePod removes the pod, which must work.
func removePod(t *testing.T, pod *lab.Pod) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	if err := pod.Remove(ctx); err != nil {
		t.Fatal(err)
	}
}

// volume makes a volume and stages it. It is unstaged and deleted at the end of the test.
func volume(t *testing.T, n *kubelet.Node, fsType string) *kubelet.Volume {
	t.Helper()
	v := n.Volume("pvc-"+uuid.NewString(), gibibyte, fsType)
	if err := v.Create(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx := context.WithoutCancel(t.Context())
		if err := errors.Join(v.Unstage(ctx), v.Delete(ctx)); err != nil {
			t.Error(err)
		}
	})
	if err := v.Stage(t.Context()); err != nil {
		t.Fatal(err)
	}
	return v
}

// publish publishes the volume to a pod and returns the mount for its containers. It is unpublished, with all pods
// gone, at the end of the test.
func publish(t *testing.T, n *kubelet.Node, v *kubelet.Volume, podUID string) lab.Mount {
	t.Helper()
	t.Cleanup(func() {
		ctx := context.WithoutCancel(t.Context())
		if err := errors.Join(n.RemovePods(ctx), v.Unpublish(ctx, podUID)); err != nil {
			t.Error(err)
		}
	})
	if err := v.Publish(t.Context(), podUID); err != nil {
		t.Fatal(err)
	}
	return lab.Mount{HostPath: v.TargetPath(podUID), ContainerPath: "/data"}
}

func TestContainersOfAPodShareTheMachineAndNothingElse(t *testing.T) {
	eachContainerd(t, func(t *testing.T, n *kubelet.Node) {
		pod := runPod(t, n, "pod")
		one, two := run(t, pod, "one", "echo one >/mine; "+idle), run(t, pod, "two", "echo two >/mine; "+idle)
		const boot = "cat /proc/sys/kernel/random/boot_id"
		if a, b := exec(t, one, boot), exec(t, two, boot); a != b {
			t.Errorf("the containers run in two machines: %q and %q", a, b)
		}
		host, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
		if err != nil {
			t.Fatal(err)
		}
		if exec(t, one, boot) == string(host) {
			t.Error("the container runs on the host's kernel")
		}
		for c, want := range map[*lab.Container]string{one: "one\n", two: "two\n"} {
			if got := exec(t, c, "cat /mine"); got != want {
				t.Errorf("the file of container %q holds %q", want, got)
			}
		}
		if ps := exec(t, one, "ps"); strings.Contains(ps, "two") {
			t.Errorf("one container sees the other's processes:\n%s", ps)
		}
		stats, err := one.Stats(t.Context())
		if err != nil || stats.GetMemory().GetWorkingSetBytes().GetValue() == 0 {
			t.Errorf("stats are %v, %v", stats, err)
		}
		removePod(t, pod)
	})
}

func TestExecAndLogsLoseNothing(t *testing.T) {
	eachContainerd(t, func(t *testing.T, n *kubelet.Node) {
		pod := runPod(t, n, "pod")
		c := run(t, pod, "app", "seq 1 100000; echo oops >&2; "+idle)
		for _, code := range []int{1, 7, 255} {
			var exit *lab.ExitError
			_, err := c.Exec(t.Context(), "sh", "-c", fmt.Sprintf("echo why >&2; exit %d", code))
			if !errors.As(err, &exit) || exit.Code != code || exit.Stderr != "why\n" {
				t.Errorf("exit %d gave %v", code, err)
			}
		}
		if _, err := c.Exec(t.Context(), "/no/such/program"); err == nil {
			t.Error("a program that is not there was run")
		}
		if out := exec(t, c, "seq 1 100000"); out != lines(100000) {
			t.Errorf("exec printed %d bytes of %d", len(out), len(lines(100000)))
		}
		eventually(t, func(context.Context) string { // it runs on: nothing says when it has written everything
			if out, err := c.Logs("stdout"); err != nil || out != lines(100000) {
				return fmt.Sprintf("the log has %d bytes of %d, %v", len(out), len(lines(100000)), err)
			}
			if out, err := c.Logs("stderr"); err != nil || out != "oops\n" {
				return fmt.Sprintf("the log of errors has %q, %v", out, err)
			}
			return ""
		})
		failing := run(t, pod, "failing", "seq 1 100000; exit 3")
		if code, err := failing.Wait(t.Context()); err != nil || code != 3 {
			t.Errorf("the container ended with %d, %v, want 3", code, err)
		}
		eventually(t, func(context.Context) string { // containerd may be writing the last of it still
			if out, err := failing.Logs("stdout"); err != nil || out != lines(100000) {
				return fmt.Sprintf("the log of an ended container has %d bytes of %d, %v", len(out), len(lines(100000)), err)
			}
			return ""
		})
		if err := c.Stop(t.Context(), 20); err != nil {
			t.Error(err)
		}
		if code, err := c.Wait(t.Context()); err != nil || code != 0 {
			t.Errorf("a container that heeds SIGTERM ended with %d, %v", code, err)
		}
		removePod(t, pod)
	})
}

func lines(n int) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintln(&b, i+1)
	}
	return b.String()
}

func TestHostFoldersAndFilesAreSharedAsMounted(t *testing.T) {
	n := artifacts.Node(t, lab.Debian)
	dir := filepath.Join(n.Lab.Dir, "shared")
	file := filepath.Join(n.Lab.Dir, "settings")
	if err := errors.Join(os.Mkdir(dir, 0o755), os.WriteFile(file, []byte("blue\n"), 0o644)); err != nil {
		t.Fatal(err)
	}
	pod := runPod(t, n, "pod")
	c := run(t, pod, "app", idle,
		lab.Mount{HostPath: dir, ContainerPath: "/shared"},
		lab.Mount{HostPath: file, ContainerPath: "/settings", ReadOnly: true})
	if got := exec(t, c, "cat /settings"); got != "blue\n" {
		t.Errorf("the file holds %q", got)
	}
	if _, err := c.Exec(t.Context(), "sh", "-c", "echo red >/settings"); err == nil {
		t.Error("a file mounted read-only was written")
	}
	exec(t, c, "seq 1 1000 >/shared/numbers")
	got, err := os.ReadFile(filepath.Join(dir, "numbers"))
	if err != nil || sha256.Sum256(got) != sha256.Sum256([]byte(lines(1000))) {
		t.Errorf("the host reads %d bytes, %v", len(got), err)
	}
	removePod(t, pod)
}
