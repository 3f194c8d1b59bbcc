package guest_test

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"

	"github.com/katadirect/katadirect/pkg/agentproto"
	"github.com/katadirect/katadirect/pkg/runtime/qemu"
)

// Kata's own shim makes these calls, in this order, with these arguments (shared_fs = none: files are copied). It knows
// nothing of what our agent can do beyond Kata's.
func TestKatasShimCanDriveTheAgent(t *testing.T) {
	m := newMachine(t, qemu.Config{})
	ctx := t.Context()
	a := m.agent
	must := func(what string, err error) {
		t.Helper()
		if err != nil {
			t.Fatalf("%s: %v", what, err)
		}
	}

	must("Check", a.Check(ctx))
	details, err := a.GetGuestDetails(ctx, &agentproto.GuestDetailsRequest{MemBlockSize: true, MemHotplugProbe: true})
	must("GetGuestDetails", err)
	if details.GetMemBlockSizeBytes() == 0 || !details.GetAgentDetails().GetSupportsSeccomp() || !details.GetAgentDetails().GetInitDaemon() {
		t.Errorf("details are %v", details)
	}
	// A shim without a policy of its own takes this for "no policies here".
	_, err = a.SetPolicy(ctx, &agentproto.SetPolicyRequest{Policy: "package agent_policy"})
	wantCode(t, err, codes.Unimplemented)
	now := time.Now().Add(-time.Hour)
	_, err = a.SetGuestDateTime(ctx, &agentproto.SetGuestDateTimeRequest{Sec: now.Unix(), Usec: int64(now.Nanosecond() / 1000)})
	must("SetGuestDateTime", err)
	_, err = a.ReseedRandomDev(ctx, &agentproto.ReseedRandomDevRequest{Data: make([]byte, 512)})
	must("ReseedRandomDev", err)

	shm := &agentproto.Storage{
		Driver: "ephemeral", Source: "shm", Fstype: "tmpfs", MountPoint: "/run/kata-containers/sandbox/shm",
		Options: []string{"noexec", "nosuid", "nodev", "mode=1777", "size=1048576"},
	}
	_, err = a.CreateSandbox(ctx, &agentproto.CreateSandboxRequest{
		Hostname: "katas-pod", Dns: []string{"nameserver 192.0.2.1"}, Storages: []*agentproto.Storage{shm},
		SandboxPidns: false, SandboxId: "katas-pod-0",
	})
	must("CreateSandbox", err)
	oom := make(chan string, 1)
	go func() {
		event, err := a.GetOOMEvent(context.WithoutCancel(ctx), &agentproto.GetOOMEventRequest{})
		if err != nil {
			oom <- err.Error()
			return
		}
		oom <- event.GetContainerId()
	}()
	must("CopyFile", m.copyRootfs(ctx))
	_, err = a.CopyFile(ctx, &agentproto.CopyFileRequest{
		Path: sharedDir + "/app-0123456789abcdef-termination-log", FileMode: unix.S_IFREG | 0o666, DirMode: 0o755,
	})
	must("CopyFile of an empty file", err)

	pause := spec("")
	pause.Process.Args = []string{"/pause"}
	pause.Annotations = map[string]string{"io.katacontainers.pkg.oci.container_type": "pod_sandbox"}
	must("CreateContainer", m.tryCreate(ctx, "katas-pod-0", pause))
	_, err = a.StartContainer(ctx, &agentproto.StartContainerRequest{ContainerId: "katas-pod-0"})
	must("StartContainer", err)

	s := spec(`trap 'echo bye >/dev/termination-log; exit 3' TERM; echo started; while :; do sleep 0.05; done`)
	s.Mounts = append(s.Mounts,
		specs.Mount{Destination: "/dev/shm", Type: "bind", Source: shm.MountPoint, Options: []string{"rbind"}},
		specs.Mount{Destination: "/dev/termination-log", Type: "bind",
			Source: sharedDir + "/app-0123456789abcdef-termination-log", Options: []string{"rbind", "rprivate", "rw"}})
	s.Annotations = map[string]string{"io.kubernetes.container.terminationMessagePath": "/dev/termination-log"}
	s.Linux.Resources.Memory = &specs.LinuxMemory{Limit: ptr(int64(64 << 20))}
	app := m.create(t, s).start()
	if r, err := a.ReadStdout(ctx, &agentproto.ReadStreamRequest{ContainerId: app.id, ExecId: app.id, Len: 32 << 10}); err != nil ||
		string(r.GetData()) != "started\n" {
		t.Errorf("the first output is %q, %v", r.GetData(), err)
	}

	// Execs are named with fresh UUIDs, whatever containerd calls them.
	exec := uuid.NewString()
	app.exec(exec, spec("cat; exit 7").Process)
	_, err = a.WriteStdin(ctx, &agentproto.WriteStreamRequest{ContainerId: app.id, ExecId: exec, Data: []byte("through")})
	must("WriteStdin", err)
	_, err = a.WriteStdin(ctx, &agentproto.WriteStreamRequest{ContainerId: app.id, ExecId: exec}) // nothing: the end
	must("WriteStdin of nothing", err)
	if out, status := app.finish(exec); out != "through" || status != 7 {
		t.Errorf("the exec printed %q and ended with %d", out, status)
	}
	if got := app.must("date +%s >/dev/null; hostname; cat /dev/shm/none 2>/dev/null; id -u"); got != "katas-pod\n0" {
		t.Errorf("in the container: %q", got)
	}

	_, err = a.UpdateContainer(ctx, &agentproto.UpdateContainerRequest{ContainerId: app.id, Resources: agentproto.ResourcesToProto(
		&specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: ptr(int64(96 << 20))}, CPU: &specs.LinuxCPU{Quota: ptr(int64(50000)), Period: ptr(uint64(100000))}})})
	must("UpdateContainer", err)
	_, err = a.PauseContainer(ctx, &agentproto.PauseContainerRequest{ContainerId: app.id})
	must("PauseContainer", err)
	_, err = a.ResumeContainer(ctx, &agentproto.ResumeContainerRequest{ContainerId: app.id})
	must("ResumeContainer", err)
	stats, err := a.StatsContainer(ctx, &agentproto.StatsContainerRequest{ContainerId: app.id})
	must("StatsContainer", err)
	if g := stats.GetCgroupStats(); g.GetMemoryStats().GetUsage().GetLimit() != 96<<20 || g.GetMemoryStats().GetUsage().GetUsage() == 0 ||
		g.GetCpuStats().GetCpuUsage().GetTotalUsage() == 0 || g.GetPidsStats().GetCurrent() == 0 {
		t.Errorf("figures: %v", g)
	}
	_, err = a.OnlineCPUMem(ctx, &agentproto.OnlineCPUMemRequest{Wait: false, NbCpus: 0})
	must("OnlineCPUMem", err)
	metrics, err := a.GetMetrics(ctx, &agentproto.GetMetricsRequest{})
	must("GetMetrics", err)
	if !strings.Contains(metrics.GetMetrics(), "kata_guest_") {
		t.Errorf("metrics:\n%s", metrics.GetMetrics())
	}

	// A process that takes more memory than the container may have is reported by the container's id.
	if _, status := app.run("head -c 200000000 /dev/zero | tail -c 200000000 >/dev/null; kill -9 $$"); status == 0 {
		t.Error("200 MB fit into 96 MiB")
	}
	select {
	case id := <-oom:
		if id != app.id {
			t.Errorf("killed for want of memory: %q, want %q", id, app.id)
		}
	case <-time.After(patience):
		t.Error("nobody was told of the kill")
	}

	// Stop: the signal to the first process, its exit, then what it left, then KILL to all with no exec id.
	_, err = a.SignalProcess(ctx, &agentproto.SignalProcessRequest{ContainerId: app.id, ExecId: app.id, Signal: uint32(unix.SIGTERM)})
	must("SignalProcess", err)
	if status := app.wait(app.id); status != 3 {
		t.Errorf("the container ended with %d", status)
	}
	message, err := a.GetDiagnosticData(ctx, &agentproto.GetDiagnosticDataRequest{LogType: "termination_log", ContainerId: app.id})
	if err != nil || message.GetData() != "bye\n" {
		t.Errorf("its last words: %q, %v", message.GetData(), err)
	}
	_, err = a.GetDiagnosticData(ctx, &agentproto.GetDiagnosticDataRequest{LogType: "everything", ContainerId: app.id})
	wantCode(t, err, codes.InvalidArgument, "termination_log")
	_, err = a.SignalProcess(ctx, &agentproto.SignalProcessRequest{ContainerId: app.id, Signal: uint32(unix.SIGKILL)})
	must("SignalProcess to all", err)
	must("RemoveContainer", app.remove())
	for _, call := range []func() error{
		func() error { _, err := a.MemAgentMemcgSet(ctx, &agentproto.MemAgentMemcgConfig{}); return err },
		func() error { _, err := a.MemAgentCompactSet(ctx, &agentproto.MemAgentCompactConfig{}); return err },
	} {
		wantCode(t, call(), codes.Unimplemented)
	}

	_, err = a.DestroySandbox(ctx, &agentproto.DestroySandboxRequest{})
	must("DestroySandbox", err)
	select {
	case <-m.Done():
	case <-time.After(patience):
		t.Error("the machine does not power off")
	}
}
