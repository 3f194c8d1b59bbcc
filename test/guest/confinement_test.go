package guest_test

import (
	"context"
	"strings"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"google.golang.org/grpc/codes"

	"github.com/katadirect/katadirect/pkg/agentproto"
	"github.com/katadirect/katadirect/pkg/runtime/qemu"
)

func TestContainerIsConfined(t *testing.T) {
	m := theMachine(t)
	s := spec("exec sleep 1000000")
	s.Root.Readonly = true
	s.Linux.MaskedPaths = []string{"/proc/kcore", "/proc/timer_list"}
	s.Linux.ReadonlyPaths = []string{"/proc/sys"}
	s.Process.User = specs.User{UID: 1000, GID: 1000, AdditionalGids: []uint32{5}}
	s.Process.Rlimits = []specs.POSIXRlimit{{Type: "RLIMIT_NOFILE", Soft: 100, Hard: 200}}
	s.Process.Capabilities = &specs.LinuxCapabilities{}
	s.Linux.Seccomp = &specs.LinuxSeccomp{
		DefaultAction: specs.ActAllow, Architectures: []specs.Arch{specs.ArchX86_64},
		Syscalls: []specs.LinuxSyscall{{Names: []string{"mkdir", "mkdirat"}, Action: specs.ActErrno}},
	}
	s.Linux.Resources.Memory = &specs.LinuxMemory{Limit: ptr(int64(32 << 20)), Swappiness: ptr(uint64(60)), KernelTCP: ptr(int64(1))}
	s.Linux.Resources.Pids = &specs.LinuxPids{Limit: ptr(int64(50))}
	s.Linux.Resources.CPU = &specs.LinuxCPU{Shares: ptr(uint64(512)), Quota: ptr(int64(50000)), Period: ptr(uint64(100000))}
	s.Mounts = append(s.Mounts, specs.Mount{Destination: "/tmp", Type: "tmpfs", Source: "tmpfs", Options: []string{"mode=1777"}})
	// What must not reach crun.
	s.Hooks = &specs.Hooks{CreateRuntime: []specs.Hook{{Path: "/no/such/hook"}}}
	s.Process.ApparmorProfile, s.Process.SelinuxLabel, s.Linux.MountLabel = "profile", "label", "label"
	s.Annotations = map[string]string{"run.oci.handler": "wasm"}
	s.Linux.Namespaces = append(s.Linux.Namespaces, specs.LinuxNamespace{Type: specs.NetworkNamespace, Path: "/var/run/netns/host"})
	c := m.create(t, s).start()

	id := newID("exec")
	c.exec(id, s.Process)
	confined := func(script string) (string, int) {
		process := *s.Process
		process.Args = []string{"/bin/sh", "-c", script}
		id := newID("exec")
		c.exec(id, &process)
		out, status := c.finish(id)
		return strings.TrimSpace(out), status
	}
	for _, tc := range []struct{ script, want string }{
		{"id -u; id -g; id -G", "1000\n1000\n1000 5"},
		{"ulimit -n", "100"},
		{"grep CapEff /proc/self/status", "CapEff:\t0000000000000000"},
		{"grep NoNewPrivs /proc/self/status", "NoNewPrivs:\t1"},
		{"grep -c . /proc/timer_list 2>&1", "0"},
		{"cat /sys/fs/cgroup/memory.max /sys/fs/cgroup/pids.max /sys/fs/cgroup/cpu.max", "33554432\n50\n50000 100000"},
		{"cat /proc/self/cgroup", "0::/"},
		{"echo $$ >/dev/null; readlink /proc/1/exe", "/bin/busybox"},
	} {
		if got, status := confined(tc.script); got != tc.want {
			t.Errorf("%s: %q, status %d; want %q", tc.script, got, status, tc.want)
		}
	}
	for _, script := range []string{"touch /file", "mkdir /tmp/dir", "mount -t tmpfs x /tmp", "echo 1 > /proc/sys/vm/drop_caches", "ls /run/kata-containers"} {
		if out, status := confined(script); status == 0 {
			t.Errorf("%s succeeded: %s", script, out)
		}
	}
}

func TestPodNamespaces(t *testing.T) {
	m := theMachine(t)
	own := m.running(t)
	look := func(c *containerIn, kind string) string { return c.must("readlink /proc/self/ns/" + kind) }
	other := m.running(t)
	for _, kind := range []string{"ipc", "uts", "net"} {
		if look(own, kind) != look(other, kind) {
			t.Errorf("two containers have two %s namespaces", kind)
		}
	}
	if look(own, "pid") == look(other, "pid") {
		t.Error("two containers share a pid namespace unasked")
	}
}

func TestSharedPIDNamespaceIsTheFirstContainers(t *testing.T) {
	m := newMachine(t, qemu.Config{})
	if err := m.createSandbox(t.Context()); err != nil {
		t.Fatal(err)
	}
	first := m.running(t)
	second := &containerIn{t, m, newID("c")}
	_, err := m.agent.CreateContainer(t.Context(), &agentproto.CreateContainerRequest{
		ContainerId: second.id, ExecId: second.id, OCI: agentproto.SpecToProto(spec("exec sleep 2000000")), SandboxPidns: true,
	})
	if err != nil {
		t.Fatal(err)
	}
	second.start()
	if got := first.must("ps | grep -c 'sleep [0-9]'"); got != "2" {
		t.Errorf("the first container sees %s of two processes", got)
	}
	if err := second.remove(); err != nil {
		t.Error(err)
	}
	if status := func() int { _, s := first.run("true"); return s }(); status != 0 {
		t.Error("the first container did not survive the second")
	}
}

func TestKilledForWantOfMemory(t *testing.T) {
	m := theMachine(t)
	s := spec("x=$(head -c 100000000 /dev/zero | busybox tr '\\0' x); echo survived")
	s.Linux.Resources.Memory = &specs.LinuxMemory{Limit: ptr(int64(16 << 20))}
	c := m.create(t, s)
	events := make(chan string, 1)
	go func() {
		e, err := m.agent.GetOOMEvent(context.WithoutCancel(t.Context()), &agentproto.GetOOMEventRequest{})
		if err != nil {
			events <- err.Error()
			return
		}
		events <- e.GetContainerId()
	}()
	c.start()
	if status := c.wait(c.id); status != 137 {
		t.Errorf("status %d, want 137", status)
	}
	if got := <-events; got != c.id {
		t.Errorf("event for %q, want %q", got, c.id)
	}
}

func TestFiguresPauseAndUpdate(t *testing.T) {
	m := theMachine(t)
	s := spec("i=0; while :; do i=$((i+1)); echo $i > /tmp/count; done")
	s.Linux.Resources.Memory = &specs.LinuxMemory{Limit: ptr(int64(64 << 20))}
	c := m.create(t, s).start()
	figures := func() *agentproto.CgroupStats {
		t.Helper()
		r, err := m.agent.StatsContainer(t.Context(), &agentproto.StatsContainerRequest{ContainerId: c.id})
		if err != nil {
			t.Fatal(err)
		}
		return r.GetCgroupStats()
	}
	c.must("true")
	f := figures()
	if f.GetMemoryStats().GetUsage().GetLimit() != 64<<20 || f.GetMemoryStats().GetUsage().GetUsage() == 0 ||
		f.GetPidsStats().GetCurrent() == 0 || f.GetCpuStats().GetCpuUsage().GetTotalUsage() == 0 {
		t.Errorf("figures %v", f)
	}
	if _, err := m.agent.PauseContainer(t.Context(), &agentproto.PauseContainerRequest{ContainerId: c.id}); err != nil {
		t.Fatal(err)
	}
	paused := figures().GetCpuStats().GetCpuUsage().GetTotalUsage()
	m.running(t).must("true") // time goes by
	if again := figures().GetCpuStats().GetCpuUsage().GetTotalUsage(); again != paused {
		t.Errorf("a paused container has used %d ns", again-paused)
	}
	if _, err := m.agent.ResumeContainer(t.Context(), &agentproto.ResumeContainerRequest{ContainerId: c.id}); err != nil {
		t.Fatal(err)
	}
	c.must("a=$(cat /tmp/count); while test $a = \"$(cat /tmp/count)\"; do :; done")
	_, err := m.agent.UpdateContainer(t.Context(), &agentproto.UpdateContainerRequest{
		ContainerId: c.id, Resources: &agentproto.LinuxResources{Memory: &agentproto.LinuxMemory{Limit: ptr(int64(48 << 20))}},
	})
	if err != nil {
		t.Fatal(err)
	}
	if got := figures().GetMemoryStats().GetUsage().GetLimit(); got != 48<<20 {
		t.Errorf("limit %d after the update", got)
	}
	// Paused containers can be ended all the same.
	if _, err := m.agent.PauseContainer(t.Context(), &agentproto.PauseContainerRequest{ContainerId: c.id}); err != nil {
		t.Fatal(err)
	}
	if err := c.remove(); err != nil {
		t.Error(err)
	}
}

func TestNetworkSysctlsAreTheMachines(t *testing.T) {
	m := theMachine(t)
	s := spec("sysctl -n net.ipv4.ip_forward kernel.shm_rmid_forced")
	s.Linux.Sysctl = map[string]string{"net.ipv4.ip_forward": "1", "kernel.shm_rmid_forced": "1"}
	c := m.create(t, s).start()
	if out, _ := c.finish(c.id); out != "1\n1\n" {
		t.Errorf("got %q", out)
	}
	s = spec("true")
	s.Linux.Sysctl = map[string]string{"net.no.such": "1"}
	wantCode(t, m.tryCreate(t.Context(), newID("c"), s), codes.InvalidArgument, "net.no.such")
}
