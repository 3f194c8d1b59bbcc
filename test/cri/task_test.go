package cri

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/katadirect/katadirect/internal/kubelet"
	"github.com/katadirect/katadirect/internal/lab"
)

// runWith runs a container of which the test gives the configuration.
func runWith(t *testing.T, n *kubelet.Node, pod *lab.Pod, config *runtime.ContainerConfig) string {
	t.Helper()
	made, err := n.Lab.CRI().CreateContainer(t.Context(), &runtime.CreateContainerRequest{
		PodSandboxId: pod.ID, Config: config, SandboxConfig: pod.Config(),
	})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := n.Lab.CRI().StartContainer(t.Context(), &runtime.StartContainerRequest{ContainerId: made.GetContainerId()}); err != nil {
		t.Fatal(err)
	}
	return made.GetContainerId()
}

// limited is a container with a limit of memory.
func limited(pod *lab.Pod, name, script string, memoryBytes int64) *runtime.ContainerConfig {
	return &runtime.ContainerConfig{
		Metadata: &runtime.ContainerMetadata{Name: name},
		Image:    &runtime.ImageSpec{Image: lab.ShellImage},
		Command:  []string{"sh", "-c", script},
		LogPath:  name + ".log",
		Linux: &runtime.LinuxContainerConfig{
			Resources: &runtime.LinuxContainerResources{MemoryLimitInBytes: memoryBytes},
			SecurityContext: &runtime.LinuxContainerSecurityContext{
				NamespaceOptions: pod.Config().GetLinux().GetSecurityContext().GetNamespaceOptions(),
			},
		},
	}
}

// eventually tries until check returns "", and fails with what it said last.
func eventually(t *testing.T, check func(ctx context.Context) string) {
	t.Helper()
	deadline := time.Now().Add(time.Minute)
	for {
		said := check(t.Context())
		if said == "" {
			return
		}
		if time.Now().After(deadline) {
			t.Error(said)
			return
		}
		time.Sleep(100 * time.Millisecond)
	}
}

func TestFiguresAndLimitsAreTheGuests(t *testing.T) {
	eachContainerd(t, func(t *testing.T, n *kubelet.Node) {
		pod := runPod(t, n, "pod")
		id := runWith(t, n, pod, limited(pod, "app", "head -c 20000000 /dev/zero >/dev/shm/ballast; "+idle, 96<<20))
		client := n.Lab.CRI()
		in := func(script string) string {
			t.Helper()
			r, err := client.ExecSync(t.Context(), &runtime.ExecSyncRequest{ContainerId: id, Cmd: []string{"sh", "-c", script}, Timeout: 60})
			if err != nil || r.GetExitCode() != 0 {
				t.Fatalf("%s: %v: %s", script, err, r.GetStderr())
			}
			return strings.TrimSpace(string(r.GetStdout()))
		}
		if got := in("cat /sys/fs/cgroup/memory.max"); got != fmt.Sprint(96<<20) {
			t.Errorf("the container's limit of memory is %s", got)
		}

		// plausible is what any of the answers must say.
		plausible := func(s *runtime.ContainerStats) string {
			memory, cpu := s.GetMemory().GetWorkingSetBytes().GetValue(), s.GetCpu().GetUsageCoreNanoSeconds().GetValue()
			if s.GetAttributes().GetId() != id || memory < 20_000_000 || memory > 96<<20 || cpu == 0 {
				return fmt.Sprintf("figures of %q: %d bytes of memory, %d ns of processor time", s.GetAttributes().GetId(), memory, cpu)
			}
			return ""
		}
		eventually(t, func(ctx context.Context) string {
			r, err := client.ContainerStats(ctx, &runtime.ContainerStatsRequest{ContainerId: id})
			if err != nil {
				return err.Error()
			}
			return plausible(r.GetStats())
		})
		list, err := client.ListContainerStats(t.Context(), &runtime.ListContainerStatsRequest{})
		if err != nil || len(list.GetStats()) != 1 || plausible(list.GetStats()[0]) != "" {
			t.Errorf("the list has %v, %v", list.GetStats(), err)
		}
		asKubelet(t, pod)
		podStats, err := client.PodSandboxStats(t.Context(), &runtime.PodSandboxStatsRequest{PodSandboxId: pod.ID})
		if err != nil {
			t.Errorf("figures of the pod: %v", err)
		} else if all := podStats.GetStats().GetLinux().GetContainers(); len(all) != 1 || plausible(all[0]) != "" {
			t.Errorf("figures of the pod's containers: %v", all)
		}

		_, err = client.UpdateContainerResources(t.Context(), &runtime.UpdateContainerResourcesRequest{
			ContainerId: id, Linux: &runtime.LinuxContainerResources{
				MemoryLimitInBytes: 128 << 20, CpuQuota: 20000, CpuPeriod: 100000, CpuShares: 256,
			},
		})
		if err != nil {
			t.Fatal(err)
		}
		if got := in("cat /sys/fs/cgroup/memory.max /sys/fs/cgroup/cpu.max"); got != fmt.Sprintf("%d\n20000 100000", 128<<20) {
			t.Errorf("after the update the limits are %q", got)
		}
		removePod(t, pod)
	})
}

// asKubelet makes the pod's cgroup on the host, which kubelet has made before it runs a pod. containerd measures it, and
// with it the pod as a whole; the machine is not in there.
func asKubelet(t *testing.T, pod *lab.Pod) {
	t.Helper()
	hierarchies, err := filepath.Glob("/sys/fs/cgroup/*/cgroup.procs")
	if err != nil {
		t.Fatal(err)
	}
	for _, h := range hierarchies {
		if err := os.MkdirAll(filepath.Join(filepath.Dir(h), pod.Config().GetLinux().GetCgroupParent()), 0o755); err != nil {
			t.Fatal(err)
		}
	}
}

func TestAContainerKilledForWantOfMemorySaysSo(t *testing.T) {
	eachContainerd(t, func(t *testing.T, n *kubelet.Node) {
		pod := runPod(t, n, "pod")
		other := run(t, pod, "other", idle)
		id := runWith(t, n, pod, limited(pod, "app", "sleep 1; head -c 200000000 /dev/zero | tail -c 200000000 >/dev/null", 32<<20))
		eventually(t, func(ctx context.Context) string {
			r, err := n.Lab.CRI().ContainerStatus(ctx, &runtime.ContainerStatusRequest{ContainerId: id})
			if s := r.GetStatus(); err != nil || s.GetReason() != "OOMKilled" || s.GetExitCode() != 137 {
				return fmt.Sprintf("the container is %v with code %d, reason %q, %v", s.GetState(), s.GetExitCode(), s.GetReason(), err)
			}
			return ""
		})
		exec(t, other, "true")
		removePod(t, pod)
	})
}

// containerd is stopped when the container ends, so what it wrote last is still in the fifo. 1.6 would stop reading it
// as soon as it found the container ended.
func TestOutputOfAContainerThatEndsWhileContainerdIsAwayIsNotLost(t *testing.T) {
	eachContainerd(t, outputOutlivesContainerd)
}

func outputOutlivesContainerd(t *testing.T, n *kubelet.Node) {
	pod := runPod(t, n, "pod")
	// It speaks when containerd is gone, and not while it goes: what that has read then and not written, nobody has.
	signal := filepath.Join(n.Lab.Dir, "signal")
	if err := os.Mkdir(signal, 0o755); err != nil {
		t.Fatal(err)
	}
	c := run(t, pod, "app", `while [ ! -e /signal/go ]; do sleep 0.2; done; seq 1 100000; exit 4`,
		lab.Mount{HostPath: signal, ContainerPath: "/signal"})
	if err := n.Lab.Containerd().Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(signal, "go"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	time.Sleep(5 * time.Second)
	if err := n.Lab.StartContainerd(t.Context()); err != nil {
		t.Fatal(err)
	}
	if code, err := c.Wait(t.Context()); err != nil || code != 4 {
		t.Errorf("it ended with %d, %v", code, err)
	}
	eventually(t, func(context.Context) string {
		if out, err := c.Logs("stdout"); err != nil || out != lines(100000) {
			return fmt.Sprintf("the log has %d bytes of %d, %v", len(out), len(lines(100000)), err)
		}
		return ""
	})
	removePod(t, pod)
}

func TestLargeStreamsBothWaysAndABoundedShim(t *testing.T) {
	eachContainerd(t, func(t *testing.T, n *kubelet.Node) {
		c := newCtr(t, n)
		const size = 64 << 20
		c.want(`$RUN -d $IMAGE task sh -c 'trap "exit 0" TERM; while :; do sleep 1 & wait; done'; echo $?`, "0\n")
		dir := n.Lab.Dir
		in, out := filepath.Join(dir, "in"), filepath.Join(dir, "out")
		c.want(fmt.Sprintf(`head -c %d /dev/urandom >%s; $CTR task exec --exec-id both task cat <%[2]s >%[3]s; echo $?`, size, in, out), "0\n")
		c.want(fmt.Sprintf(`cmp %s %s && stat -c %%s %[2]s`, in, out), fmt.Sprintf("%d\n", size))

		// A reader that does not read holds the writer up, in the guest, and costs the shim nothing.
		shim := `for p in /proc/[0-9]*; do grep -qs katadirect-v2 $p/cmdline && ! grep -qs " start" $p/cmdline && echo $p; done | head -1`
		resident := fmt.Sprintf(`awk '/VmRSS/ {print $2}' $(%s)/status`, shim)
		got, err := c.shell(fmt.Sprintf(`exec 2>/dev/null # containerd 2 warns of cgroup v1 with every call
before=$(%s)
($CTR task exec --exec-id slow task head -c %d /dev/zero | (sleep 5; wc -c) >%s/count) &
sleep 4; during=$(%[1]s); wait; echo $before $during $(cat %[3]s/count)`, resident, size, dir))
		if err != nil {
			t.Fatalf("%v: %s", err, got)
		}
		var before, during, count int
		if _, err := fmt.Sscan(got, &before, &during, &count); err != nil || count != size || during > before+12<<10 {
			t.Errorf("the shim had %d KiB and then %d, and %d bytes came: %q, %v", before, during, count, got, err)
		}
		c.want(`exec 2>/dev/null; $CTR task ps task | wc -l; $CTR task metrics task | awk '/^memory.usage|^memory_usage|^usage/ {print ($2 > 0)}' | head -1`, "2\n1\n")
		c.want(`($CTR task kill task; while $CTR task ls | grep -q RUNNING; do sleep 0.1; done); $CTR task rm task; $CTR container rm task; echo gone`, "gone\n")
	})
}

func TestATerminalIsAttachedExecutedInAndResized(t *testing.T) {
	eachContainerd(t, func(t *testing.T, n *kubelet.Node) {
		c := newCtr(t, n)
		c.want(`$RUN -d $IMAGE task sh -c 'trap "exit 0" TERM; while :; do sleep 1 & wait; done'; echo $?`, "0\n")
		// "script" gives ctr a terminal, whose size it passes on, and again when the size changes.
		c.want(sized("30 100")+`script -qec 'stty rows 30 cols 100; $CTR task exec -t --exec-id tty task sh -c "tty >/dev/null && $SIZED"' /dev/null | tr -d '\r' | tail -1`, "30 100\n")
		c.want(sized("41 77")+`script -qec '(sleep 2; stty -F /dev/tty rows 41 cols 77) & stty rows 30 cols 100; $CTR task exec -t --exec-id resize task sh -c "$SIZED"' /dev/null | tr -d '\r' | tail -1`, "41 77\n")
		c.want(`($CTR task kill --all -s SIGKILL task; while $CTR task ls | grep -q RUNNING; do sleep 0.1; done); $CTR task rm task; $CTR container rm task; echo gone`, "gone\n")

		// A container with a terminal of its own, attached to by a second client.
		c.want(sized("33 90")+`export TALK='read line; echo "got $line"; '"$SIZED"'; read end; exit 3'
script -qec '$RUN -d -t $IMAGE talker sh -c "$TALK"' /dev/null; echo $?`, "0\n")
		c.want(`(sleep 5; echo hello; sleep 1; echo end; sleep 1) | script -qec 'stty rows 33 cols 90; $CTR task attach talker; echo code $?' /dev/null | tr -d '\r' | grep -e got -e '33 90' -e code`, "got hello\n33 90\ncode 3\n")
		c.want(`$CTR task rm talker 2>/dev/null; $CTR container rm talker; echo gone`, "gone\n")
	})
}

func TestTheUntrustedAnnotationChoosesTheMachine(t *testing.T) {
	host, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		t.Fatal(err)
	}
	eachContainerd(t, func(t *testing.T, n *kubelet.Node) {
		pod, err := n.Lab.RunPod(t.Context(), lab.PodSpec{
			Name: "pod", Annotations: map[string]string{"io.kubernetes.cri.untrusted-workload": "true"},
		})
		if err != nil {
			t.Fatal(err)
		}
		if got := exec(t, run(t, pod, "app", idle), "cat /proc/sys/kernel/random/boot_id"); got == string(host) {
			t.Error("the pod runs on the host's kernel")
		}
		removePod(t, pod)

		_, err = n.Lab.RunPod(t.Context(), lab.PodSpec{
			Name: "both", Handler: kubelet.Handler, Annotations: map[string]string{"io.kubernetes.cri.untrusted-workload": "true"},
		})
		if err == nil || !strings.Contains(err.Error(), "untrusted") {
			t.Errorf("together with a handler of another name: %v", err)
		}
	})
}
