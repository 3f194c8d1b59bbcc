package guest_test

import (
	"context"
	"crypto/sha256"
	"fmt"
	"os"
	"path"
	"strings"
	"sync/atomic"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/katadirect/katadirect/pkg/agentproto"
	"github.com/katadirect/katadirect/pkg/runtime/qemu"
	"google.golang.org/grpc/codes"
)

const sharedDir = "/run/kata-containers/shared/containers"

// createSandbox makes the sandbox, and a root file system with a shell in it
// that all containers of the tests use.
func (m *machine) createSandbox(ctx context.Context) error {
	_, err := m.agent.CreateSandbox(ctx, &agentproto.CreateSandboxRequest{
		Hostname: "pod-name", SandboxId: "sandbox0", Dns: []string{"nameserver 192.0.2.1", "search example.org"},
	})
	if err != nil {
		return err
	}
	return m.copyRootfs(ctx)
}

// copyRootfs puts busybox into the guest by CopyFile.
func (m *machine) copyRootfs(ctx context.Context) error {
	busybox, err := os.ReadFile("/bin/busybox")
	if err != nil {
		return fmt.Errorf("%w (Debian: busybox-static)", err)
	}
	copyFile := func(name string, mode uint32, data []byte) error {
		const chunk = 1 << 20
		for offset := 0; offset == 0 || offset < len(data); offset += chunk {
			_, err := m.agent.CopyFile(ctx, &agentproto.CopyFileRequest{
				Path: path.Join(sharedDir, "rootfs", name), FileSize: int64(len(data)), FileMode: mode, DirMode: 0o755,
				Offset: int64(offset), Data: data[offset:min(offset+chunk, len(data))],
			})
			if err != nil {
				return err
			}
		}
		return nil
	}
	for _, dir := range []string{"proc", "sys", "dev", "tmp", "etc", "data"} {
		if err := copyFile(dir, unix.S_IFDIR|0o755, nil); err != nil {
			return err
		}
	}
	if err := copyFile("bin/busybox", unix.S_IFREG|0o755, busybox); err != nil {
		return err
	}
	for _, name := range []string{"sh", "cat", "sleep", "echo", "df", "mount", "stat", "head", "ls", "id", "dd", "sync",
		"sha256sum", "true", "kill", "test", "chmod", "touch", "seq", "hostname", "ps", "grep", "rm", "ip", "stty", "mkdir",
		"readlink", "ulimit", "env", "sysctl", "wc", "cut", "yes", "timeout"} {
		if err := copyFile("bin/"+name, unix.S_IFLNK|0o777, []byte("busybox")); err != nil {
			return err
		}
	}
	return nil
}

var lastID atomic.Int64

// newID returns an id that no other container or process has.
func newID(kind string) string { return fmt.Sprintf("%s-%d", kind, lastID.Add(1)) }

// spec is a container's, as containerd makes them, running a shell script.
func spec(script string) *specs.Spec {
	capabilities := []string{"CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_KILL", "CAP_SETUID", "CAP_SETGID", "CAP_FOWNER"}
	return &specs.Spec{
		Version: "1.0.2",
		Root:    &specs.Root{Path: path.Join(sharedDir, "rootfs")},
		Process: &specs.Process{
			Args: []string{"/bin/sh", "-c", script}, Cwd: "/", Env: []string{"PATH=/bin", "HOME=/"},
			NoNewPrivileges: true,
			Capabilities:    &specs.LinuxCapabilities{Bounding: capabilities, Effective: capabilities, Permitted: capabilities},
		},
		Mounts: []specs.Mount{
			{Destination: "/proc", Type: "proc", Source: "proc", Options: []string{"nosuid", "noexec", "nodev"}},
			{Destination: "/dev", Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "strictatime", "mode=755", "size=65536k"}},
			{Destination: "/dev/pts", Type: "devpts", Source: "devpts", Options: []string{"nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"}},
			{Destination: "/sys", Type: "sysfs", Source: "sysfs", Options: []string{"nosuid", "noexec", "nodev", "ro"}},
			{Destination: "/sys/fs/cgroup", Type: "cgroup", Source: "cgroup", Options: []string{"nosuid", "noexec", "nodev", "ro"}},
		},
		Linux: &specs.Linux{
			Namespaces: []specs.LinuxNamespace{{Type: specs.MountNamespace}, {Type: specs.IPCNamespace}, {Type: specs.UTSNamespace}},
			Resources:  &specs.LinuxResources{},
		},
	}
}

// containerIn is a container of a test.
type containerIn struct {
	t  *testing.T
	m  *machine
	id string
}

// create makes a container that is removed with the test.
func (m *machine) create(t *testing.T, s *specs.Spec, storages ...*agentproto.Storage) *containerIn {
	t.Helper()
	c := &containerIn{t, m, newID("c")}
	if err := m.tryCreate(t.Context(), c.id, s, storages...); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_, _ = m.agent.RemoveContainer(context.Background(), &agentproto.RemoveContainerRequest{ContainerId: c.id})
	})
	return c
}

func (m *machine) tryCreate(ctx context.Context, id string, s *specs.Spec, storages ...*agentproto.Storage) error {
	_, err := m.agent.CreateContainer(ctx, &agentproto.CreateContainerRequest{
		ContainerId: id, ExecId: id, OCI: agentproto.SpecToProto(s), Storages: storages,
	})
	return err
}

func (c *containerIn) start() *containerIn {
	c.t.Helper()
	if _, err := c.m.agent.StartContainer(c.t.Context(), &agentproto.StartContainerRequest{ContainerId: c.id}); err != nil {
		c.t.Fatal(err)
	}
	return c
}

// running makes and starts a container that stays until the test's end.
func (m *machine) running(t *testing.T, storages ...*agentproto.Storage) *containerIn {
	t.Helper()
	s := spec("exec sleep 1000000")
	for _, st := range storages {
		s.Mounts = append(s.Mounts, mountAt("/data", st.GetMountPoint()))
	}
	return m.create(t, s, storages...).start()
}

// mountAt is a bind mount as the CRI has it.
func mountAt(destination, source string) specs.Mount {
	return specs.Mount{Destination: destination, Type: "bind", Source: source, Options: []string{"rbind", "rprivate", "rw"}}
}

// run runs a script in the container and returns what it wrote and its status.
func (c *containerIn) run(script string) (output string, status int) {
	c.t.Helper()
	id := newID("exec")
	process := spec(script).Process
	c.exec(id, process)
	return c.finish(id)
}

// must is run for a script that has to succeed.
func (c *containerIn) must(script string) string {
	c.t.Helper()
	output, status := c.run(script)
	if status != 0 {
		c.t.Fatalf("%s: status %d\n%s", script, status, output)
	}
	return strings.TrimSpace(output)
}

func (c *containerIn) exec(id string, process *specs.Process) {
	c.t.Helper()
	_, err := c.m.agent.ExecProcess(c.t.Context(), &agentproto.ExecProcessRequest{
		ContainerId: c.id, ExecId: id, Process: agentproto.ProcessToProto(process),
	})
	if err != nil {
		c.t.Fatal(err)
	}
}

// finish reads a process's output to the end and waits for it.
func (c *containerIn) finish(id string) (output string, status int) {
	c.t.Helper()
	stderr := make(chan string, 1)
	go func() { stderr <- c.readAll(id, c.m.agent.ReadStderr) }()
	output = c.readAll(id, c.m.agent.ReadStdout)
	output += <-stderr
	return output, c.wait(id)
}

type readCall func(context.Context, *agentproto.ReadStreamRequest) (*agentproto.ReadStreamResponse, error)

func (c *containerIn) readAll(id string, read readCall) string {
	var all strings.Builder
	for {
		r, err := read(c.t.Context(), &agentproto.ReadStreamRequest{ContainerId: c.id, ExecId: id, Len: 256 << 10})
		if err != nil {
			c.t.Error(err)
			return all.String()
		}
		if len(r.GetData()) == 0 {
			return all.String()
		}
		all.Write(r.GetData())
	}
}

func (c *containerIn) wait(id string) int {
	c.t.Helper()
	r, err := c.m.agent.WaitProcess(c.t.Context(), &agentproto.WaitProcessRequest{ContainerId: c.id, ExecId: id})
	if err != nil {
		c.t.Fatal(err)
	}
	return int(r.GetStatus())
}

func (c *containerIn) remove() error {
	_, err := c.m.agent.RemoveContainer(c.t.Context(), &agentproto.RemoveContainerRequest{ContainerId: c.id})
	return err
}

func TestAContainerRuns(t *testing.T) {
	m := theMachine(t)
	c := m.create(t, spec("echo out; echo err >&2; hostname; exit 42")).start()
	out, status := c.finish(c.id)
	if status != 42 || out != "out\npod-name\nerr\n" {
		t.Errorf("status %d, output %q", status, out)
	}
	if err := c.remove(); err != nil {
		t.Error(err)
	}
}

func TestOutputIsCompleteHoweverLarge(t *testing.T) {
	m := theMachine(t)
	c := m.create(t, spec("head -c 20000000 /dev/urandom | tee /dev/stderr | sha256sum >/tmp/sum; cat /tmp/sum >&2; head -c 5000001 /dev/zero")).start()
	stderr := make(chan string, 1)
	go func() { stderr <- c.readAll(c.id, m.agent.ReadStderr) }()
	out := c.readAll(c.id, m.agent.ReadStdout)
	errOut := <-stderr
	if len(out) != 5000001 {
		t.Errorf("%d bytes on standard output", len(out))
	}
	const sumLine = sha256.Size*2 + len("  -\n")
	random, sum := errOut[:len(errOut)-sumLine], errOut[len(errOut)-sumLine:]
	if want := fmt.Sprintf("%x  -\n", sha256.Sum256([]byte(random))); sum != want || len(random) != 20000000 {
		t.Errorf("%d bytes on standard error with the sum %q, want %q", len(random), sum, want)
	}
	if status := c.wait(c.id); status != 0 {
		t.Errorf("status %d", status)
	}
}

func TestOutputThatNobodyHasReadSurvivesTheWait(t *testing.T) {
	m := theMachine(t)
	c := m.running(t)
	id := newID("exec")
	c.exec(id, spec("head -c 300000 /dev/zero; exit 3").Process)
	if status := c.wait(id); status != 3 {
		t.Errorf("status %d", status)
	}
	if out := c.readAll(id, m.agent.ReadStdout); len(out) != 300000 {
		t.Errorf("%d bytes after the wait", len(out))
	}
	_, err := m.agent.WaitProcess(t.Context(), &agentproto.WaitProcessRequest{ContainerId: c.id, ExecId: id})
	wantCode(t, err, codes.NotFound)
}

func TestStdinIsWrittenAndClosed(t *testing.T) {
	m := theMachine(t)
	c := m.running(t)
	id := newID("exec")
	c.exec(id, spec("sha256sum").Process)
	data := make([]byte, 3<<20)
	for i := range data {
		data[i] = byte(i * 7)
	}
	for rest := data; len(rest) > 0; {
		r, err := m.agent.WriteStdin(t.Context(), &agentproto.WriteStreamRequest{
			ContainerId: c.id, ExecId: id, Data: rest[:min(len(rest), 1<<20)],
		})
		if err != nil {
			t.Fatal(err)
		}
		rest = rest[r.GetLen():]
	}
	if _, err := m.agent.CloseStdin(t.Context(), &agentproto.CloseStdinRequest{ContainerId: c.id, ExecId: id}); err != nil {
		t.Fatal(err)
	}
	out, status := c.finish(id)
	if want := fmt.Sprintf("%x  -\n", sha256.Sum256(data)); status != 0 || out != want {
		t.Errorf("status %d, %q, want %q", status, out, want)
	}
}

func TestTerminal(t *testing.T) {
	m := theMachine(t)
	// One made with the container, and one with an exec.
	s := spec("stty size; test -t 0 && echo terminal; read line; echo got $line; stty size")
	s.Process.Terminal = true
	s.Process.ConsoleSize = &specs.Box{Height: 30, Width: 100}
	c := m.create(t, s).start()
	tryTerminal(t, c, c.id, "30 100")

	c = m.running(t)
	id := newID("exec")
	s.Process.ConsoleSize = nil
	c.exec(id, s.Process)
	tryTerminal(t, c, id, "stty: standard input") // it has no size yet
}

func tryTerminal(t *testing.T, c *containerIn, id, size string) {
	t.Helper()
	out := ""
	for !strings.Contains(out, "terminal\r\n") {
		r, err := c.m.agent.ReadStdout(t.Context(), &agentproto.ReadStreamRequest{ContainerId: c.id, ExecId: id, Len: 100})
		if err != nil || len(r.GetData()) == 0 {
			t.Fatalf("%q, then %v", out, err)
		}
		out += string(r.GetData())
	}
	_, err := c.m.agent.TtyWinResize(t.Context(), &agentproto.TtyWinResizeRequest{ContainerId: c.id, ExecId: id, Row: 40, Column: 132})
	if err != nil {
		t.Error(err)
	}
	_, err = c.m.agent.WriteStdin(t.Context(), &agentproto.WriteStreamRequest{ContainerId: c.id, ExecId: id, Data: []byte("a line\n")})
	if err != nil {
		t.Fatal(err)
	}
	out += c.readAll(id, c.m.agent.ReadStdout)
	if status := c.wait(id); status != 0 {
		t.Errorf("status %d", status)
	}
	if !strings.HasPrefix(out, size+"\r\n") || !strings.Contains(out, "got a line\r\n40 132\r\n") {
		t.Errorf("on the terminal: %q", out)
	}
}

func TestSignals(t *testing.T) {
	m := theMachine(t)
	signal := func(c *containerIn, id string, sig unix.Signal) error {
		_, err := m.agent.SignalProcess(t.Context(), &agentproto.SignalProcessRequest{ContainerId: c.id, ExecId: id, Signal: uint32(sig)})
		return err
	}
	t.Run("TERM to a first process without a handler", func(t *testing.T) {
		c := m.running(t)
		if err := signal(c, c.id, unix.SIGTERM); err != nil {
			t.Fatal(err)
		}
		if status := c.wait(c.id); status != 137 {
			t.Errorf("status %d, want 137", status)
		}
	})
	t.Run("TERM to a first process with a handler", func(t *testing.T) {
		c := m.create(t, spec("trap 'exit 5' TERM; echo ready; while :; do sleep 0.05; done")).start()
		if _, err := m.agent.ReadStdout(t.Context(), &agentproto.ReadStreamRequest{ContainerId: c.id, ExecId: c.id, Len: 10}); err != nil {
			t.Fatal(err)
		}
		if err := signal(c, "", unix.SIGTERM); err != nil {
			t.Fatal(err)
		}
		if status := c.wait(c.id); status != 5 {
			t.Errorf("status %d, want 5", status)
		}
	})
	t.Run("TERM to an exec", func(t *testing.T) {
		c := m.running(t)
		id := newID("exec")
		c.exec(id, spec("exec sleep 1000").Process)
		if err := signal(c, id, unix.SIGTERM); err != nil {
			t.Fatal(err)
		}
		if status := c.wait(id); status != 143 {
			t.Errorf("status %d, want 143", status)
		}
		wantCode(t, signal(c, id, unix.SIGTERM), codes.NotFound)
	})
	t.Run("KILL to all", func(t *testing.T) {
		c := m.running(t)
		id := newID("exec")
		c.exec(id, spec("exec sleep 1000").Process)
		if err := signal(c, "", unix.SIGKILL); err != nil {
			t.Fatal(err)
		}
		if first, other := c.wait(c.id), c.wait(id); first != 137 || other != 137 {
			t.Errorf("statuses %d and %d", first, other)
		}
	})
	t.Run("to a process that has exited", func(t *testing.T) {
		c := m.create(t, spec("exit 0")).start()
		c.readAll(c.id, m.agent.ReadStdout)
		if err := signal(c, c.id, unix.SIGKILL); err != nil {
			t.Error(err)
		}
		c.wait(c.id)
	})
}

func TestUnknownContainersAndProcesses(t *testing.T) {
	m := theMachine(t)
	c := m.running(t)
	_, err := m.agent.WaitProcess(t.Context(), &agentproto.WaitProcessRequest{ContainerId: "nobody", ExecId: "nobody"})
	wantCode(t, err, codes.InvalidArgument)
	_, err = m.agent.WaitProcess(t.Context(), &agentproto.WaitProcessRequest{ContainerId: c.id, ExecId: "nobody"})
	wantCode(t, err, codes.NotFound)
	wantCode(t, m.tryCreate(t.Context(), c.id, spec("true")), codes.AlreadyExists)
	wantCode(t, m.tryCreate(t.Context(), "shared", spec("true")), codes.AlreadyExists)
	for _, id := range []string{"", "..", "a/b", "-x", strings.Repeat("x", 200)} {
		wantCode(t, m.tryCreate(t.Context(), id, spec("true")), codes.InvalidArgument)
	}
	wantCode(t, m.tryCreate(t.Context(), newID("c"), &specs.Spec{}), codes.InvalidArgument)
	_, err = m.agent.StartContainer(t.Context(), &agentproto.StartContainerRequest{ContainerId: c.id})
	wantCode(t, err, codes.FailedPrecondition)
	_, err = m.agent.SetPolicy(t.Context(), &agentproto.SetPolicyRequest{})
	wantCode(t, err, codes.Unimplemented, "/grpc.AgentService/SetPolicy")
	_, err = m.agent.CreateSandbox(t.Context(), &agentproto.CreateSandboxRequest{})
	wantCode(t, err, codes.FailedPrecondition)
}

func TestExecSaysWhatIsMissing(t *testing.T) {
	m := theMachine(t)
	c := m.running(t)
	process := spec("").Process
	process.Args = []string{"no-such-program"}
	id := newID("exec")
	exec := func() error {
		_, err := m.agent.ExecProcess(t.Context(), &agentproto.ExecProcessRequest{
			ContainerId: c.id, ExecId: id, Process: agentproto.ProcessToProto(process),
		})
		return err
	}
	if err := exec(); err == nil || !strings.Contains(err.Error(), "no-such-program") {
		t.Errorf("error %v, want the program's name", err)
	}
	// The id is free again.
	process.Args = []string{"true"}
	if err := exec(); err != nil {
		t.Fatal(err)
	}
	wantCode(t, exec(), codes.AlreadyExists)
	if status := c.wait(id); status != 0 {
		t.Errorf("status %d", status)
	}
}

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

func TestStoragesInMemory(t *testing.T) {
	m := theMachine(t)
	shm := &agentproto.Storage{
		Driver: "ephemeral", Source: "shm", Fstype: "tmpfs", MountPoint: "/run/kata-containers/sandbox/shm-" + newID("x"),
		Options: []string{"noexec", "nosuid", "nodev", "mode=1777", "size=1048576"},
	}
	local := &agentproto.Storage{
		Driver: "local", Source: "local", MountPoint: "/run/kata-containers/sandbox/local-" + newID("x"), Options: []string{"mode=0770", "fsgid=33"},
	}
	s := spec("exec sleep 1000000")
	s.Mounts = append(s.Mounts,
		specs.Mount{Destination: "/dev/shm", Type: "bind", Source: shm.MountPoint, Options: []string{"rbind"}},
		specs.Mount{Destination: "/data", Type: "bind", Source: local.MountPoint, Options: []string{"rbind"}})
	c := m.create(t, s, shm, local).start()
	if got := c.must("stat -c '%a %g' /dev/shm /data"); got != "1777 0\n2770 33" {
		t.Errorf("modes and groups: %q", got)
	}
	if out, status := c.run("head -c 2000000 /dev/zero > /dev/shm/x"); status == 0 {
		t.Errorf("2 MB went into 1 MiB: %s", out)
	}
	c.must("rm /dev/shm/x; echo kept > /dev/shm/y; echo kept > /data/y")
	_, err := m.agent.UpdateEphemeralMounts(t.Context(), &agentproto.UpdateEphemeralMountsRequest{Storages: []*agentproto.Storage{{
		Driver: "ephemeral", MountPoint: shm.MountPoint, Options: []string{"size=4194304"},
	}}})
	if err != nil {
		t.Fatal(err)
	}
	c.must("head -c 2000000 /dev/zero > /dev/shm/x")
	// A restarted container of the pod finds them again.
	if err := c.remove(); err != nil {
		t.Fatal(err)
	}
	c = m.create(t, s, shm, local).start()
	c.must("cat /dev/shm/y /data/y")
}

func TestRawBlockDeviceInAContainer(t *testing.T) {
	m := theMachine(t)
	d := m.plug(t, newImage(t, 16*mib), false)
	s := spec("exec sleep 1000000")
	s.Linux.Devices = []specs.LinuxDevice{{Path: "/dev/xvda", Type: "b", Major: 8, Minor: 77, FileMode: ptr(os.FileMode(0o600))}}
	s.Linux.Resources.Devices = []specs.LinuxDeviceCgroup{{Allow: false, Access: "rwm"}}
	c := &containerIn{t, m, newID("c")}
	_, err := m.agent.CreateContainer(t.Context(), &agentproto.CreateContainerRequest{
		ContainerId: c.id, ExecId: c.id, OCI: agentproto.SpecToProto(s),
		Devices: []*agentproto.Device{{Id: d.address.Source, Type: d.address.Driver, ContainerPath: "/dev/xvda"}},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.remove() })
	c.start().must("echo raw-content > /dev/xvda; sync")
	if err := c.remove(); err != nil {
		t.Fatal(err)
	}
	d.unplug()
	content := make([]byte, 11)
	f, err := os.Open(d.image)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.Read(content); err != nil || string(content) != "raw-content" {
		t.Errorf("the image begins with %q, %v", content, err)
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

func ptr[T any](v T) *T { return &v }
