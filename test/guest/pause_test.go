package guest_test

import (
	"strings"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"

	"github.com/katadirect/katadirect/pkg/agentproto"
	"github.com/katadirect/katadirect/pkg/runtime/qemu"
)

// pauseSpec is what a shim sends for the pod's own container. There is no such program in its root file system unless
// the test puts it there.
func pauseSpec() *specs.Spec {
	s := spec("")
	s.Process.Args = []string{"/pause"}
	s.Annotations = map[string]string{"io.katacontainers.pkg.oci.container_type": "pod_sandbox"}
	return s
}

func (c *containerIn) signal(sig unix.Signal) {
	c.t.Helper()
	_, err := c.m.agent.SignalProcess(c.t.Context(), &agentproto.SignalProcessRequest{
		ContainerId: c.id, ExecId: c.id, Signal: uint32(sig)})
	if err != nil {
		c.t.Fatal(err)
	}
}

func TestTheAgentStandsInForThePauseContainer(t *testing.T) {
	m := theMachine(t)
	for _, end := range []struct {
		signal unix.Signal
		status int
	}{{unix.SIGTERM, 0}, {unix.SIGKILL, 137}} {
		c := m.create(t, pauseSpec()).start() // there is no such program, so no process either
		c.signal(unix.SIGUSR1)                // which it does not heed
		stats, err := m.agent.StatsContainer(t.Context(), &agentproto.StatsContainerRequest{ContainerId: c.id})
		if err != nil || stats.GetCgroupStats().GetPidsStats().GetCurrent() != 0 {
			t.Errorf("its figures: %v, %v", stats.GetCgroupStats().GetPidsStats(), err)
		}
		c.signal(end.signal)
		if out, status := c.finish(c.id); out != "" || status != end.status {
			t.Errorf("%s ended it with %d and %q, want %d", end.signal, status, out, end.status)
		}
		if err := c.remove(); err != nil {
			t.Error(err)
		}
		if err := m.tryCreate(t.Context(), c.id, pauseSpec()); err != nil {
			t.Errorf("another of the same name, once it is removed: %v", err)
		} else if err := c.remove(); err != nil { // which was never started
			t.Error(err)
		}
	}
	c := m.create(t, pauseSpec()).start()
	if err := c.remove(); err != nil {
		t.Errorf("remove it while it runs: %v", err)
	}
}

// The first container of a pod is the one whose pid namespace is the pod's, so this takes a machine of its own.
func TestThePodsPIDNamespaceIsThePauseContainersOnceItIsWanted(t *testing.T) {
	m := newMachine(t, qemu.Config{})
	if err := m.createSandbox(t.Context()); err != nil {
		t.Fatal(err)
	}
	script := "#!/bin/sh\ntrap 'exit 0' TERM INT\nwhile :; do sleep 1000000 & wait; done\n"
	_, err := m.agent.CopyFile(t.Context(), &agentproto.CopyFileRequest{
		Path: sharedDir + "/rootfs/pause", FileSize: int64(len(script)), FileMode: unix.S_IFREG | 0o755, DirMode: 0o755,
		Data: []byte(script),
	})
	if err != nil {
		t.Fatal(err)
	}
	pause := m.create(t, pauseSpec()).start()
	join := func(id string) *containerIn {
		t.Helper()
		_, err := m.agent.CreateContainer(t.Context(), &agentproto.CreateContainerRequest{
			ContainerId: id, ExecId: id, OCI: agentproto.SpecToProto(spec("exec sleep 1000000")), SandboxPidns: true,
		})
		if err != nil {
			t.Fatal(err)
		}
		return (&containerIn{t, m, id}).start()
	}
	one, two := join("one"), join("two")
	for _, c := range []*containerIn{one, two} {
		ps := c.must("ps -o pid,args")
		if !strings.Contains(ps, "/pause") || strings.Count(ps, "sleep 1000000") < 3 { // pause has one of its own
			t.Errorf("container %s sees\n%s", c.id, ps)
		}
		if c.must("ls /proc/1/exe >/dev/null 2>&1; cat /proc/1/comm") != "pause" {
			t.Errorf("the namespace's first process is not the pause container's:\n%s", ps)
		}
	}
	if got := m.create(t, spec("exec sleep 1000000")).start().must("ps -o args"); strings.Count(got, "sleep 1000000") != 1 {
		t.Errorf("a container that did not ask for the pod's processes sees\n%s", got)
	}
	// An orphan of one container ends up with the pause container, which takes it in.
	one.must(`(sleep 0.1 &) ; sleep 0.5; ! grep "^State:.Z" /proc/[0-9]*/status`)

	pause.signal(unix.SIGTERM)
	if status := pause.wait(pause.id); status != 0 {
		t.Errorf("the pause container ended with %d", status)
	}
	// A pid namespace ends with its first process.
	if status := one.wait(one.id); status != 137 {
		t.Errorf("a container in the ended namespace ended with %d", status)
	}
	for _, c := range []*containerIn{one, two, pause} {
		if err := c.remove(); err != nil {
			t.Error(err)
		}
	}
}

func TestAPauseContainerWithMoreToDoIsMade(t *testing.T) {
	m := theMachine(t)
	for name, change := range map[string]func(*specs.Spec){
		"another program":         func(s *specs.Spec) { s.Process.Args = []string{"/no-such-program"} },
		"arguments":               func(s *specs.Spec) { s.Process.Args = []string{"/pause", "-v"} },
		"parameters for its pod":  func(s *specs.Spec) { s.Linux.Sysctl = map[string]string{"kernel.shm_rmid_forced": "1"} },
		"not the pod's container": func(s *specs.Spec) { s.Annotations = nil },
	} {
		s := pauseSpec()
		change(s)
		err := m.tryCreate(t.Context(), newID("c"), s)
		if err == nil || !strings.Contains(err.Error(), s.Process.Args[0][1:]) {
			t.Errorf("%s: %v, want crun to look for the program", name, err)
		}
	}
	_, err := m.agent.ExecProcess(t.Context(), &agentproto.ExecProcessRequest{
		ContainerId: m.create(t, pauseSpec()).start().id, ExecId: newID("exec"), Process: agentproto.ProcessToProto(spec("true").Process),
	})
	wantCode(t, err, codes.Internal, "pause") // crun has not found it
}
