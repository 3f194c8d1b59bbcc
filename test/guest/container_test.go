package guest_test

import (
	"os"
	"strings"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"

	"github.com/katadirect/katadirect/pkg/agentproto"
)

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
