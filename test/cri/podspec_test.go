package cri

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/katadirect/katadirect/internal/kubelet"
	"github.com/katadirect/katadirect/internal/lab"
	"github.com/katadirect/katadirect/test/artifacts"
)

// changed runs a container with a change to what kubelet would ask for; it must start.
func changed(t *testing.T, pod *lab.Pod, name, script string, change func(*cri.ContainerConfig)) *lab.Container {
	t.Helper()
	c, err := tryChanged(t, pod, name, script, change)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func tryChanged(t *testing.T, pod *lab.Pod, name, script string, change func(*cri.ContainerConfig)) (*lab.Container, error) {
	return pod.Run(t.Context(), lab.ContainerSpec{Name: name, Command: []string{"sh", "-c", script}, Change: change})
}

// prints checks what scripts print in the container.
func prints(t *testing.T, c *lab.Container, what map[string]string) {
	t.Helper()
	for script, want := range what {
		got, err := c.Exec(t.Context(), "sh", "-c", script)
		if err != nil || strings.TrimSpace(got) != want {
			t.Errorf("%s\nprints %q, %v; want %q", script, got, err, want)
		}
	}
}

func security(c *cri.ContainerConfig) *cri.LinuxContainerSecurityContext {
	return c.Linux.SecurityContext
}

// Paths that kubelet has hidden and made read-only, unless procMount is Unmasked.
var (
	masked   = []string{"/proc/kcore", "/proc/keys", "/proc/timer_list", "/sys/firmware"}
	readOnly = []string{"/proc/bus", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"}
)

func TestAContainersSecurityContextAndLimits(t *testing.T) {
	eachContainerd(t, func(t *testing.T, n *kubelet.Node) {
		pod, err := n.Lab.RunPod(t.Context(), lab.PodSpec{Name: "pod", Handler: kubelet.Handler, Privileged: true, Change: func(c *cri.PodSandboxConfig) {
			c.Hostname = "named"
			c.Linux.Sysctls = map[string]string{"kernel.shm_rmid_forced": "1", "net.ipv4.ip_unprivileged_port_start": "7", "fs.mqueue.msg_max": "20"}
		}})
		if err != nil {
			t.Fatal(err)
		}
		t.Run("a confined one", func(t *testing.T) {
			c := changed(t, pod, "confined", idle, func(c *cri.ContainerConfig) {
				c.WorkingDir = "/made/up"
				c.Envs = append(c.Envs, &cri.KeyValue{Key: "GREETING", Value: []byte("hello there")})
				s := security(c)
				s.RunAsUser, s.RunAsGroup, s.SupplementalGroups = &cri.Int64Value{Value: 1000}, &cri.Int64Value{Value: 1001}, []int64{2000}
				s.Capabilities = &cri.Capability{DropCapabilities: []string{"ALL"}, AddCapabilities: []string{"NET_BIND_SERVICE"}}
				s.ReadonlyRootfs, s.NoNewPrivs = true, true
				s.Seccomp = &cri.SecurityProfile{ProfileType: cri.SecurityProfile_RuntimeDefault}
				s.MaskedPaths, s.ReadonlyPaths = masked, readOnly
				c.Linux.Resources = &cri.LinuxContainerResources{
					CpuPeriod: 100_000, CpuQuota: 50_000, CpuShares: 512, MemoryLimitInBytes: 64 << 20, OomScoreAdj: 500,
				}
			})
			prints(t, c, map[string]string{
				"id -u; id -g; id -G":                             "1000\n1001\n1001 2000",
				"pwd; echo $GREETING; hostname":                   "/made/up\nhello there\nnamed",
				"grep -E '^(CapBnd|CapPrm)' /proc/self/status":    "CapPrm:\t0000000000000000\nCapBnd:\t0000000000000400",
				"grep -E '^(NoNewPrivs|Seccomp):' /proc/1/status": "NoNewPrivs:\t1\nSeccomp:\t2",
				"cat /proc/1/oom_score_adj":                       "500",
				"cat /sys/fs/cgroup/memory.max /sys/fs/cgroup/memory.swap.max /sys/fs/cgroup/cpu.max":                                             "67108864\n0\n50000 100000",
				"touch /x 2>&1; echo 1 2>&1 >/proc/sys/vm/swappiness; head -c 1 /proc/kcore; ls /sys/firmware; mkdir /sys/fs/cgroup/x 2>&1; true": "touch: /x: Read-only file system\nsh: can't create /proc/sys/vm/swappiness: Read-only file system\nmkdir: can't create directory '/sys/fs/cgroup/x': Read-only file system",
				"df -k /dev/shm | tail -1 | awk '{print $2}'":                                                                                     "65536",
				"cat /proc/sys/kernel/shm_rmid_forced /proc/sys/net/ipv4/ip_unprivileged_port_start /proc/sys/fs/mqueue/msg_max":                  "1\n7\n20",
			})
		})
		t.Run("a privileged one", func(t *testing.T) {
			c, err := pod.Run(t.Context(), lab.ContainerSpec{Name: "privileged", Command: []string{"sh", "-c", idle}, Privileged: true})
			if err != nil {
				t.Fatal(err)
			}
			prints(t, c, map[string]string{
				"mount -t tmpfs x /tmp && echo yes":                                  "yes",
				"echo 10 >/proc/sys/vm/swappiness && echo yes":                       "yes",
				"mkdir /sys/fs/cgroup/mine && rmdir /sys/fs/cgroup/mine && echo yes": "yes",
			})
		})
		t.Run("a character device of the host", func(t *testing.T) {
			_, err := tryChanged(t, pod, "device", idle, func(c *cri.ContainerConfig) {
				c.Devices = []*cri.Device{{HostPath: "/dev/ptmx", ContainerPath: "/dev/of-the-host", Permissions: "rw"}}
			})
			if err == nil || !strings.Contains(err.Error(), "/dev/of-the-host") {
				t.Errorf("error %v", err)
			}
			c := changed(t, pod, "sink", idle, func(c *cri.ContainerConfig) {
				c.Devices = []*cri.Device{{HostPath: "/dev/null", ContainerPath: "/dev/sink", Permissions: "rw"}}
			})
			prints(t, c, map[string]string{"echo x >/dev/sink && wc -c </dev/sink": "0"})
		})
		t.Run("procMount Unmasked", func(t *testing.T) {
			c := changed(t, pod, "unmasked", idle, func(c *cri.ContainerConfig) {
				security(c).MaskedPaths, security(c).ReadonlyPaths = []string{}, []string{}
			})
			prints(t, c, map[string]string{"test -n \"$(ls /sys/firmware)\" && echo 11 >/proc/sys/vm/swappiness && echo yes": "yes"})
		})
		t.Run("a seccomp profile of its own", func(t *testing.T) {
			profile, err := json.Marshal(map[string]any{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": []any{
				map[string]any{"names": []string{"mkdir", "mkdirat"}, "action": "SCMP_ACT_ERRNO", "errnoRet": 95}}})
			if err != nil {
				t.Fatal(err)
			}
			path := filepath.Join(n.Lab.Dir, "profile.json")
			if err := os.WriteFile(path, profile, 0o600); err != nil {
				t.Fatal(err)
			}
			c := changed(t, pod, "profile", idle, func(c *cri.ContainerConfig) {
				security(c).Seccomp = &cri.SecurityProfile{ProfileType: cri.SecurityProfile_Localhost, LocalhostRef: path}
			})
			prints(t, c, map[string]string{"mkdir /x 2>&1; touch /y && echo yes": "mkdir: can't create directory '/x': Operation not supported\nyes"})
		})
		t.Run("one that takes more memory than it may", func(t *testing.T) {
			c := changed(t, pod, "greedy", "exec dd if=/dev/zero of=/dev/null bs=100M count=1", func(c *cri.ContainerConfig) {
				c.Linux.Resources = &cri.LinuxContainerResources{MemoryLimitInBytes: 32 << 20}
			})
			code, err := c.Wait(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			eventually(t, func(ctx context.Context) string { // containerd hears of the reason by an event of its own
				if status, err := c.Status(ctx); err != nil || code != 137 || status.GetReason() != "OOMKilled" {
					return fmt.Sprintf("it ended with %d, reason %q, %v", code, status.GetReason(), err)
				}
				return ""
			})
		})
		t.Run("an absurd one", func(t *testing.T) {
			for name, tc := range map[string]struct {
				change func(*cri.ContainerConfig)
				says   string
			}{
				"huge": {func(c *cri.ContainerConfig) {
					c.Linux.Resources = &cri.LinuxContainerResources{MemoryLimitInBytes: 1 << 45}
				}, "default_maxmemory"},
				"disk": {func(c *cri.ContainerConfig) {
					c.Mounts = append(c.Mounts, &cri.Mount{HostPath: hostDisk(t, n), ContainerPath: "/dev/disk"})
				}, "a device of the host cannot be shared as a file"},
				"nobody": {func(c *cri.ContainerConfig) {
					c.Mounts = append(c.Mounts, &cri.Mount{HostPath: "/proc/sys/kernel", ContainerPath: "/host"})
				}, "not possible in a virtual machine"},
			} {
				if _, err := tryChanged(t, pod, "absurd-"+name, "true", tc.change); err == nil || !strings.Contains(err.Error(), tc.says) {
					t.Errorf("%s: %v; want an error that says %q", name, err, tc.says)
				}
			}
		})
		t.Run("hostPaths of the kernel's own", func(t *testing.T) {
			c := changed(t, pod, "kernel", idle, func(c *cri.ContainerConfig) {
				for _, path := range []string{"/proc", "/sys", "/sys/fs/cgroup", "/sys/class"} {
					c.Mounts = append(c.Mounts, &cri.Mount{HostPath: path, ContainerPath: "/host" + path})
				}
			})
			prints(t, c, map[string]string{
				// The machine's own, of which nothing can be changed.
				"cat /host/proc/1/comm; cat /host/proc/sys/kernel/random/boot_id | cmp -s - /proc/sys/kernel/random/boot_id && echo same":        "init\nsame",
				"echo 12 2>&1 >/host/proc/sys/vm/swappiness; ls /host/proc/1/root 2>&1 | head -1; true":                                          "sh: can't create /host/proc/sys/vm/swappiness: Read-only file system\nls: /host/proc/1/root: Permission denied",
				"ls /host/sys/class | grep -c '^net$'; ls /host/sys/fs/cgroup | grep -c cgroup.procs; mkdir /host/sys/fs/cgroup/mine 2>&1; true": "1\n1\nmkdir: can't create directory '/host/sys/fs/cgroup/mine': Read-only file system",
			})
		})
		t.Run("mount propagation, which ends at the machine", func(t *testing.T) {
			dir := filepath.Join(n.Lab.Dir, "propagated")
			if err := os.Mkdir(dir, 0o755); err != nil {
				t.Fatal(err)
			}
			var containers []*lab.Container
			for name, propagation := range map[string]cri.MountPropagation{
				"both": cri.MountPropagation_PROPAGATION_BIDIRECTIONAL, "receiving": cri.MountPropagation_PROPAGATION_HOST_TO_CONTAINER,
			} {
				c, err := pod.Run(t.Context(), lab.ContainerSpec{Name: name, Command: []string{"sh", "-c", idle}, Privileged: true, Change: func(c *cri.ContainerConfig) {
					c.Mounts = append(c.Mounts, &cri.Mount{HostPath: dir, ContainerPath: "/mnt", Propagation: propagation})
				}})
				if err != nil {
					t.Fatal(err)
				}
				prints(t, c, map[string]string{"mkdir -p /mnt/" + name + " && mount -t tmpfs x /mnt/" + name + " && touch /mnt/" + name + "/file && echo mounted": "mounted"})
				containers = append(containers, c)
			}
			for _, name := range []string{"both", "receiving"} {
				if entries, err := os.ReadDir(filepath.Join(dir, name)); err != nil || len(entries) > 0 {
					t.Errorf("the host sees %v, %v in the mount of %s", entries, err, name)
				}
			}
			for _, c := range containers {
				if err := errors.Join(c.Stop(t.Context(), 0), c.Remove(t.Context())); err != nil {
					t.Error(err)
				}
			}
		})
		t.Run("sockets of the host", func(t *testing.T) {
			path := filepath.Join(n.Lab.Dir, "host.sock")
			listener, err := net.Listen("unix", path)
			if err != nil {
				t.Fatal(err)
			}
			defer listener.Close()
			d := newPodDir(t, n)
			c := run(t, pod, "client", idle, lab.Mount{HostPath: path, ContainerPath: "/host.sock"}, d.probe())
			prints(t, c, map[string]string{"test -S /host.sock && echo seen; probe connect /host.sock 2>&1; true": "seen\ndial unix /host.sock: connect: connection refused"})
		})
		removePod(t, pod)
	})
}

// hostDisk makes the node of a block device.
func hostDisk(t *testing.T, n *kubelet.Node) string {
	t.Helper()
	path := filepath.Join(n.Lab.Dir, "disk-node")
	if _, err := os.Stat(path); err == nil {
		return path
	}
	if _, err := n.Lab.Run(t.Context(), lab.Command{Name: "mknod", Path: "/bin/mknod", Args: []string{path, "b", "7", "200"}}); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestAPodsMachineGrowsWithItsContainers(t *testing.T) {
	eachContainerd(t, func(t *testing.T, n *kubelet.Node) {
		pod := runPod(t, n, "pod")
		number := func(c *lab.Container, script string) int {
			t.Helper()
			value, err := strconv.Atoi(strings.TrimSpace(exec(t, c, script)))
			if err != nil {
				t.Fatal(err)
			}
			return value
		}
		const memory, processors = "awk '/MemTotal/ {print int($2/1024)}' /proc/meminfo", "grep -c ^processor /proc/cpuinfo"
		small := run(t, pod, "small", idle)
		before := number(small, memory)
		large := changed(t, pod, "large", idle, func(c *cri.ContainerConfig) {
			c.Linux.Resources = &cri.LinuxContainerResources{CpuPeriod: 100_000, CpuQuota: 60_000, MemoryLimitInBytes: 300 << 20}
		})
		// The kernel brings new memory online a moment later.
		await(t, large, fmt.Sprintf("test $(%s) -ge %d && echo grown", memory, before+290), "grown")
		if vcpus := number(large, processors); vcpus != 2 {
			t.Errorf("%d processors", vcpus)
		}
		_, err := n.Lab.CRI().UpdateContainerResources(t.Context(), &cri.UpdateContainerResourcesRequest{
			ContainerId: small.ID, Linux: &cri.LinuxContainerResources{MemoryLimitInBytes: 400 << 20, CpuPeriod: 100_000, CpuQuota: 20_000},
		})
		if err != nil {
			t.Fatal(err)
		}
		await(t, small, fmt.Sprintf("test $(%s) -ge %d && echo grown", memory, before+690), "grown")
		prints(t, small, map[string]string{"cat /sys/fs/cgroup/memory.max /sys/fs/cgroup/cpu.max": "419430400\n20000 100000"})
		removePod(t, pod)
	})
}

func TestADebuggingContainerSeesItsTarget(t *testing.T) {
	eachContainerd(t, func(t *testing.T, n *kubelet.Node) {
		pod := runPod(t, n, "pod")
		initial := run(t, pod, "init", "exit 0")
		if code, err := initial.Wait(t.Context()); err != nil || code != 0 {
			t.Fatal(code, err)
		}
		app := run(t, pod, "app", "echo here >/mine; "+idle)
		debug := changed(t, pod, "debug", idle, func(c *cri.ContainerConfig) {
			security(c).NamespaceOptions = &cri.NamespaceOption{Pid: cri.NamespaceMode_TARGET, TargetId: app.ID}
			security(c).Capabilities = &cri.Capability{AddCapabilities: []string{"SYS_PTRACE"}}
		})
		prints(t, debug, map[string]string{"cat /proc/1/root/mine": "here"})
		if err := errors.Join(debug.Stop(t.Context(), 0), debug.Remove(t.Context())); err != nil {
			t.Fatal(err)
		}
		exec(t, app, "true")
		removePod(t, pod)
	})
}

func TestAPodThatWantsTheHostsNamespacesHasTheMachines(t *testing.T) {
	eachContainerd(t, func(t *testing.T, n *kubelet.Node) {
		namespaces := &cri.NamespaceOption{Pid: cri.NamespaceMode_NODE, Ipc: cri.NamespaceMode_NODE}
		pod, err := n.Lab.RunPod(t.Context(), lab.PodSpec{Name: "pod", Handler: kubelet.Handler, Change: func(c *cri.PodSandboxConfig) {
			c.Linux.SecurityContext.NamespaceOptions = namespaces
		}})
		if err != nil {
			t.Fatal(err)
		}
		one, two := run(t, pod, "one", idle), run(t, pod, "two", idle)
		exec(t, one, "echo shared >/dev/shm/x")
		prints(t, two, map[string]string{
			"cat /dev/shm/x":   "shared",
			"cat /proc/1/comm": "pause", // one for all of the pod
			"ls /proc | grep -c '^[0-9]' | awk '{print ($1 < 20)}'": "1",
		})
		if a, b := exec(t, one, "readlink /proc/self/ns/ipc"), exec(t, two, "readlink /proc/self/ns/ipc"); a != b {
			t.Errorf("two ipc namespaces: %s and %s", a, b)
		}
		removePod(t, pod)
	})
}

func TestAUserNamespaceIsRefusedByName(t *testing.T) {
	eachContainerd(t, func(t *testing.T, n *kubelet.Node) {
		ids := []*cri.IDMapping{{HostId: 100_000, ContainerId: 0, Length: 65536}}
		pod, err := n.Lab.RunPod(t.Context(), lab.PodSpec{Name: "pod", Handler: kubelet.Handler, Change: func(c *cri.PodSandboxConfig) {
			c.Linux.SecurityContext.NamespaceOptions.UsernsOptions = &cri.UserNamespace{Mode: cri.NamespaceMode_POD, Uids: ids, Gids: ids}
		}})
		if err == nil {
			defer func() { _ = pod.Remove(context.WithoutCancel(t.Context())) }()
			if n.Lab.Containerd() != nil && isDebian(t) {
				return // containerd 1.6 does not know of them
			}
			t.Fatal("the pod runs")
		}
		if !strings.Contains(fmt.Sprint(err), "user namespace") {
			t.Errorf("error %v", err)
		}
	})
}

func isDebian(t *testing.T) bool { return strings.Contains(t.Name(), string(lab.Debian)) }

func TestAMachineIsSizedOnceWhereTheConfigurationSaysSo(t *testing.T) {
	n := artifacts.Node(t, lab.V2)
	config, err := os.ReadFile(filepath.Join(n.Lab.Dir, kubelet.Handler+".toml"))
	if err != nil {
		t.Fatal(err)
	}
	static := filepath.Join(n.Lab.Dir, "static.toml")
	if err := os.WriteFile(static, append(config, "\n[runtime]\nstatic_sandbox_resource_mgmt = true\n"...), 0o600); err != nil {
		t.Fatal(err)
	}
	c := newCtr(t, n)
	run := "$CTR run --runtime io.containerd.katadirect.v2 --runtime-config-path " + static
	c.want(run+` --memory-limit 314572800 --cpus 0.5 --rm $IMAGE sized sh -c '
		grep -c ^processor /proc/cpuinfo; awk "/MemTotal/ {print (\$2 > 500*1024)}" /proc/meminfo'`,
		"2\n1\n")
	if said, err := c.shell(run + ` --memory-limit 35184372088832 --rm $IMAGE large true 2>&1`); err == nil || !strings.Contains(said+err.Error(), "default_maxmemory") {
		t.Errorf("32 TiB: %q, %v", said, err)
	}
}
