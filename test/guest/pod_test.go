package guest_test

import (
	"context"
	"fmt"
	"os"
	"path"
	"strings"
	"sync/atomic"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/katadirect/katadirect/pkg/agentproto"
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
		"readlink", "sed", "tail", "tee", "ulimit", "env", "sysctl", "wc", "cut", "yes", "timeout", "nc", "ping"} {
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
	return c.readAllBy(fewBytes, id, read)
}

// What is asked for at once decides by which way the agent answers, in bytes.
const (
	fewBytes  = 256 << 10
	manyBytes = 1 << 20
)

func (c *containerIn) readAllBy(piece uint32, id string, read readCall) string {
	var all strings.Builder
	for {
		r, err := read(c.t.Context(), &agentproto.ReadStreamRequest{ContainerId: c.id, ExecId: id, Len: piece})
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

func ptr[T any](v T) *T { return &v }
