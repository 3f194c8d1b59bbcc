package guest_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/katadirect/katadirect/pkg/agentproto"
	"github.com/katadirect/katadirect/pkg/runtime/agentclient"
	"github.com/katadirect/katadirect/pkg/runtime/qemu"
)

func TestAgentSaysWhatItCanDo(t *testing.T) {
	m := theMachine(t)
	f, err := m.agent.Hello(t.Context())
	if err != nil || !f.ResizeVolume || !f.FormatIfBlank || !f.GrowOnMount || !f.Seccomp {
		t.Errorf("%+v, %v", f, err)
	}
	d, err := m.agent.GetGuestDetails(t.Context(), &agentproto.GuestDetailsRequest{MemBlockSize: true, MemHotplugProbe: true})
	if err != nil || !d.GetAgentDetails().GetInitDaemon() || len(d.GetAgentDetails().GetStorageHandlers()) == 0 || d.GetMemBlockSizeBytes() == 0 {
		t.Errorf("%v, %v", d, err)
	}
}

// The host hangs up, also in the middle of calls, and comes back: everything
// is still there.
func TestAgentServesAgainAfterTheHostHasHungUp(t *testing.T) {
	m := theMachine(t)
	c := m.running(t)
	for range 5 {
		// A call in flight that will never be answered.
		ctx, cancel := context.WithCancel(t.Context())
		go func() {
			_, _ = m.agent.WaitProcess(ctx, &agentproto.WaitProcessRequest{ContainerId: c.id, ExecId: c.id})
		}()
		if err := m.agent.Close(); err != nil {
			t.Fatal(err)
		}
		cancel()
		if err := m.dial(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	c.must("true")
}

func TestDestroySandboxSwitchesTheMachineOff(t *testing.T) {
	m := newMachine(t, qemu.Config{})
	if err := m.createSandbox(t.Context()); err != nil {
		t.Fatal(err)
	}
	image := newImage(t, 64*mib)
	d := m.plug(t, image, false)
	c := m.running(t, d.storage("ext4", ifBlank...))
	c.must("echo written > /data/file") // and not flushed
	// On a busy host the machine may be off before its answer has been read: then the connection's end is the answer.
	if _, err := m.agent.DestroySandbox(t.Context(), &agentproto.DestroySandboxRequest{}); err != nil && !errors.Is(err, agentclient.ErrGone) {
		t.Fatal(err)
	}
	select {
	case <-m.Done():
	case <-time.After(patience):
		t.Fatal("the machine is still on")
	}
	if err := m.Err(); err == nil || !strings.Contains(err.Error(), "powered") {
		t.Errorf("the machine ended: %v", err)
	}
	checkClean(t, "ext4", image)
	if out := onHost(t, "debugfs", "-R", "cat /file", image); !strings.Contains(out, "written") {
		t.Errorf("the file holds %q", out)
	}
}

func TestCopyFileStaysBelowTheSharedFolder(t *testing.T) {
	m := theMachine(t)
	send := func(path string, mode uint32, data string) error {
		_, err := m.agent.CopyFile(t.Context(), &agentproto.CopyFileRequest{
			Path: path, FileSize: int64(len(data)), FileMode: mode, DirMode: 0o755, Data: []byte(data),
		})
		return err
	}
	const file, link = 0o100640, 0o120777
	for _, path := range []string{"/etc/passwd", sharedDir, sharedDir + "/../x", sharedDir + "/a/../../../x", "relative", ""} {
		wantCode(t, send(path, file, "x"), codes.InvalidArgument)
	}
	if err := send(sharedDir+"/way-out", link, "/run"); err != nil {
		t.Fatal(err)
	}
	if err := send(sharedDir+"/way-out/escaped", file, "x"); err == nil {
		t.Error("a link led out of the shared folder")
	}
	wantCode(t, send(sharedDir+"/fifo", 0o010644, ""), codes.InvalidArgument)
	if err := send(sharedDir+"/rootfs/etc/copied", file, "content"); err != nil {
		t.Fatal(err)
	}
	if got := m.running(t).must("cat /etc/copied; stat -c %a /etc/copied"); got != "content640" {
		t.Errorf("got %q", got)
	}
}

func TestClockRandomnessProcessorsAndMetrics(t *testing.T) {
	m := theMachine(t)
	ctx := t.Context()
	want := time.Now().Add(-time.Hour)
	if _, err := m.agent.SetGuestDateTime(ctx, &agentproto.SetGuestDateTimeRequest{Sec: want.Unix(), Usec: 5}); err != nil {
		t.Error(err)
	}
	var now int64
	c := m.running(t)
	if _, err := fmt.Sscan(c.must("cat /proc/uptime >/dev/null; busybox date +%s"), &now); err != nil || now < want.Unix() || now > want.Unix()+60 {
		t.Errorf("the guest's clock says %d, set to %d", now, want.Unix())
	}
	if _, err := m.agent.SetGuestDateTime(ctx, &agentproto.SetGuestDateTimeRequest{Sec: time.Now().Unix()}); err != nil {
		t.Error(err)
	}
	if _, err := m.agent.ReseedRandomDev(ctx, &agentproto.ReseedRandomDevRequest{Data: make([]byte, 64)}); err != nil {
		t.Error(err)
	}
	if _, err := m.agent.OnlineCPUMem(ctx, &agentproto.OnlineCPUMemRequest{NbCpus: 0, Wait: true}); err != nil {
		t.Error(err)
	}
	if _, err := m.agent.RemoveStaleVirtiofsShareMounts(ctx, &agentproto.RemoveStaleVirtiofsShareMountsRequest{}); err != nil {
		t.Error(err)
	}
	metrics, err := m.agent.GetMetrics(ctx, &agentproto.GetMetricsRequest{})
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"kata_guest_meminfo{item=\"mem_total\"} ", "kata_guest_load{item=\"load1\"} ", "kata_agent_total_rss "} {
		if !strings.Contains(metrics.GetMetrics(), "\n"+want) {
			t.Errorf("no %q in the metrics", want)
		}
	}
	for line := range strings.Lines(metrics.GetMetrics()) {
		if rss, ok := strings.CutPrefix(line, "kata_agent_total_rss "); ok {
			t.Logf("resident memory of the agent: %s", rss)
		}
	}
}

func TestNameResolutionAndNetworkWithoutACard(t *testing.T) {
	m := theMachine(t)
	_, err := m.agent.UpdateInterface(t.Context(), &agentproto.UpdateInterfaceRequest{
		Interface: &agentproto.Interface{Name: "eth0", HwAddr: "02:00:00:00:00:01"},
	})
	wantCode(t, err, codes.NotFound, "Link not found")
	list, err := m.agent.ListInterfaces(t.Context(), &agentproto.ListInterfacesRequest{})
	if err != nil || len(list.GetInterfaces()) != 0 {
		t.Errorf("interfaces %v, %v", list, err)
	}
	if got := m.running(t).must("ip addr show lo | grep -c 127.0.0.1"); got != "1" {
		t.Errorf("lo has %q addresses", got)
	}
}

func TestCommandLineReachesTheAgent(t *testing.T) {
	m := newMachine(t, qemu.Config{KernelParams: []string{"agent.hotplug_timeout=20"}})
	if err := m.createSandbox(t.Context()); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	err := m.tryCreate(t.Context(), newID("c"), spec("true"), &agentproto.Storage{
		Driver: "blk", Source: "02/1d", Fstype: "ext4", MountPoint: "/run/kata-containers/sandbox/storage/none",
	})
	wantCode(t, err, codes.DeadlineExceeded)
	if took := time.Since(began); took < 15*time.Second { // the agent's own is 10; a busy host makes it longer only
		t.Errorf("it took %v, allowed were 20 s", took)
	}
}
