package sandbox

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/katadirect/katadirect/pkg/directvolume"
	"github.com/katadirect/katadirect/pkg/runtime/agentclient"
	"github.com/katadirect/katadirect/pkg/runtime/config"
	"github.com/katadirect/katadirect/pkg/runtime/share"
	"github.com/katadirect/katadirect/pkg/runtime/volume"
)

func TestASandboxComesUpAndGoesWithoutATrace(t *testing.T) {
	h := newHost(t)
	h.options.Spec.Mounts = []specs.Mount{bind(h.file("resolv.conf", "nameserver 10.0.0.1\n\nsearch x\n"), "/etc/resolv.conf")}
	s := h.create()
	if !h.roots.sandboxes().Alive("s1") {
		t.Error("it does not count as alive")
	}
	got := h.agent.sandbox
	if got.GetHostname() != "pod" || got.GetSandboxId() != "s1" || !slices.Equal(got.GetDns(), []string{"nameserver 10.0.0.1", "search x"}) {
		t.Errorf("the agent was told %v", got)
	}
	want := []string{
		`driver:"virtio-fs" source:"kataShared" fstype:"virtiofs" mount_point:"/run/kata-containers/shared/containers"`,
		`driver:"ephemeral" source:"shm" fstype:"tmpfs" options:"noexec" options:"nosuid" options:"nodev" options:"mode=1777" ` +
			`options:"size=67108864" mount_point:"/run/kata-containers/sandbox/shm"`,
	}
	spaces := regexp.MustCompile(` +`) // the text form varies them on purpose
	for i, storage := range got.GetStorages() {
		if text := spaces.ReplaceAllString(storage.String(), " "); i >= len(want) || text != want[i] {
			t.Errorf("storage %s, want %s", text, want)
		}
	}
	address, err := os.ReadFile(filepath.Join(h.options.Bundle, monitorAddress))
	if err != nil || string(address) != "unix://"+h.roots.sandboxes().SocketPath("s1") {
		t.Errorf("monitor_address %q, %v", address, err)
	}
	client := directvolume.NewClient("s1", directvolume.WithClientSandboxes(h.roots.sandboxes()))
	if url, err := client.AgentURL(t.Context()); err != nil || url != "vserial:///test" {
		t.Errorf("management socket: %q, %v", url, err)
	}
	for range 2 {
		if err := s.Stop(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	<-s.Done()
	if err := s.Err(); err != nil {
		t.Errorf("after Stop: %v", err)
	}
	if !h.agent.called("DestroySandbox") {
		t.Error("the guest was not asked to end")
	}
	h.nothingLeft()
}

func TestWhatFailsOnTheWayUpIsUndone(t *testing.T) {
	for _, tc := range []struct {
		name   string
		before func(*host)
		says   string
	}{
		{"an id that leads elsewhere", func(h *host) { h.options.ID = "../s1" }, "sandbox id"},
		{"a bundle that is not absolute", func(h *host) { h.options.Bundle = "bundle" }, "absolute"},
		{"an annotation that is not allowed", func(h *host) {
			h.options.Spec.Annotations = map[string]string{"io.katacontainers.config.hypervisor.default_memory": "1"}
		}, "enable_annotations"},
		{"no virtiofsd", func(h *host) { h.options.Config.Hypervisor.VirtiofsDaemon = "/no/virtiofsd" }, "virtio_fs_daemon"},
		{"no guest image", func(h *host) { h.options.Config.Hypervisor.Initrd = "/no/initrd" }, "katadirect guest build"},
		{"the machine does not start", func(h *host) { h.machine.failStart = errInjected }, "start the virtual machine"},
		{"no agent within the time", func(h *host) {
			h.machine.failDial, h.options.Config.Agent.DialTimeout = errInjected, 20*time.Millisecond
		}, "dial_timeout"},
		{"an agent that does not serve", func(h *host) { h.agent.fail["Check"] = errInjected }, "Check"},
		{"an agent that tells nothing", func(h *host) { h.agent.fail["GetGuestDetails"] = errInjected }, "GetGuestDetails"},
		{"no sandbox in the guest", func(h *host) { h.agent.fail["CreateSandbox"] = errInjected }, "CreateSandbox"},
		{"no place for the socket", func(h *host) { h.folder("sbs/s1/shim-monitor.sock/x") }, "management socket"},
		{"no bundle", func(h *host) { h.options.Bundle = h.dir + "/none" }, monitorAddress},
	} {
		t.Run(tc.name, func(t *testing.T) {
			h := newHost(t)
			tc.before(h)
			if _, err := Create(t.Context(), h.options); err == nil || !strings.Contains(err.Error(), tc.says) {
				t.Errorf("error %v, want one that says %q", err, tc.says)
			}
			h.nothingLeft()
		})
	}
}

func TestASecondSandboxWithTheIDOfALivingOneIsRefusedAndHurtsNothing(t *testing.T) {
	h := newHost(t)
	s := h.create()
	if _, err := Create(t.Context(), h.options); !errors.Is(err, directvolume.ErrLeaseHeld) {
		t.Errorf("error %v", err)
	}
	if err := s.CreateContainer(t.Context(), h.container("c1")); err != nil {
		t.Errorf("the first one: %v", err)
	}
}

func TestAContainersMountsReachTheGuestEachInItsWay(t *testing.T) {
	h := newHost(t)
	s := h.create()
	file := h.file("etc/hosts", "hosts")
	readOnly := h.volume("w")
	readOnly.Destination, readOnly.Options = "/ro", []string{"rbind", "ro"}
	r := h.container("c1",
		specs.Mount{Type: "proc", Source: "proc", Destination: "/proc"},
		bind(file, "/etc/hosts"), h.volume("v"), readOnly, bind("/x/shm", "/dev/shm"))
	r.Terminal = true
	if err := s.CreateContainer(t.Context(), r); err != nil {
		t.Fatal(err)
	}
	got := h.agent.requests["c1"]
	if got.GetExecId() != "c1" || got.GetOCI().GetRoot().GetPath() != "/run/kata-containers/shared/containers/c1/rootfs" ||
		!got.GetOCI().GetProcess().GetTerminal() {
		t.Errorf("request %v", got)
	}
	want := [][]string{
		{"proc", "proc", "/proc", ""},
		{"bind", `/run/kata-containers/shared/containers/c1-[0-9a-f]{16}-hosts`, "/etc/hosts", "rbind rprivate rw"},
		{"bind", `/run/kata-containers/sandbox/storage/MDIvMDE=`, "/data", "rbind rprivate rw"},
		{"bind", `/run/kata-containers/sandbox/storage/MDIvMDI=`, "/ro", "rbind ro"},
		{"bind", `/run/kata-containers/sandbox/shm`, "/dev/shm", "rbind"},
	}
	mounts := got.GetOCI().GetMounts()
	if len(mounts) != len(want) {
		t.Fatalf("mounts %v", mounts)
	}
	for i, m := range mounts {
		if w := want[i]; m.GetType() != w[0] || !regexp.MustCompile("^"+w[1]+"$").MatchString(m.GetSource()) ||
			m.GetDestination() != w[2] || strings.Join(m.GetOptions(), " ") != w[3] {
			t.Errorf("mount %v, want %v", m, w)
		}
	}
	sources := []string{}
	for _, storage := range got.GetStorages() {
		sources = append(sources, storage.GetSource()+" "+storage.GetMountPoint())
	}
	if !reflect.DeepEqual(sources, []string{"02/01 " + want[2][1], "02/02 " + want[3][1]}) {
		t.Errorf("storages %q", sources)
	}
	for _, d := range h.machine.plugged {
		if d.ReadOnly {
			t.Errorf("a mount's ro made the device read-only: %+v", d)
		}
	}
	if err := s.RemoveContainer(t.Context(), "c1"); err != nil {
		t.Fatal(err)
	}
	if entries, err := os.ReadDir(h.roots.Share + "/s1/mounts"); err != nil || len(entries) > 0 {
		t.Errorf("still shared: %v, %v", entries, err)
	}
}

func TestAContainerThatFailsLeavesNothingAndCanBeMadeAgain(t *testing.T) {
	for _, tc := range []struct {
		name   string
		change func(*host, *ContainerRequest)
		is     error
		says   string
	}{
		{"no root file system", func(_ *host, r *ContainerRequest) { r.Rootfs = nil }, os.ErrNotExist, "root file system"},
		{"a root file system that cannot be mounted", func(_ *host, r *ContainerRequest) { r.Rootfs[0].Type = "nosuchfs" },
			syscall.ENODEV, "root file system"},
		{"a mount without a source", func(h *host, r *ContainerRequest) {
			r.Spec.Mounts = append(r.Spec.Mounts, bind(h.dir+"/none", "/x"))
		}, os.ErrNotExist, "/x"},
		{"a host's device node", func(_ *host, r *ContainerRequest) {
			r.Spec.Mounts = append(r.Spec.Mounts, bind("/dev/kmsg", "/x"))
		}, share.ErrDevice, "/dev/kmsg"},
		{"a torn record", func(h *host, r *ContainerRequest) {
			files, _ := filepath.Glob(h.roots.Records + "/*/mountInfo.json")
			if err := os.Truncate(files[0], 10); err != nil {
				h.t.Fatal(err)
			}
		}, directvolume.ErrInvalid, "target/v"},
		{"a device that is gone", func(h *host, _ *ContainerRequest) { _ = os.Remove(h.dir + "/pool/v") }, directvolume.ErrDevice, "pool/v"},
		{"an agent that refuses", func(h *host, _ *ContainerRequest) {
			h.agent.fail["CreateContainer"] = status.Error(codes.Internal, "no room")
		}, nil, "agent: CreateContainer: no room"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			h := newHost(t)
			s := h.create()
			r := h.container("c1", bind(h.folder("dir"), "/dir"), h.volume("v"))
			tc.change(h, &r)
			err := s.CreateContainer(t.Context(), r)
			if err == nil || tc.is != nil && !errors.Is(err, tc.is) || !strings.Contains(err.Error(), tc.says) {
				t.Errorf("error %v, want %v with %q", err, tc.is, tc.says)
			}
			if entries, err := os.ReadDir(h.roots.Share + "/s1/mounts"); err != nil || len(entries) > 0 {
				t.Errorf("still shared: %v, %v", entries, err)
			}
			// The guest may have seen the disk only where the agent was asked.
			if seen := h.agent.called("CreateContainer c1"); (len(h.machine.plugged) == 1) != seen {
				t.Errorf("plugged in %v, the agent was asked: %v", h.machine.plugged, seen)
			}
			delete(h.agent.fail, "CreateContainer")
			if err := s.CreateContainer(t.Context(), h.container("c1", h.volume("v2"))); err != nil {
				t.Errorf("a second attempt: %v", err)
			}
			if err := s.Stop(t.Context()); err != nil {
				t.Fatal(err)
			}
			h.nothingLeft()
		})
	}
}

func TestAVolumeWhereBlockDevicesAreForbiddenFailsItsContainer(t *testing.T) {
	h := newHost(t)
	h.options.Config.Hypervisor.DisableBlock = true
	s := h.create()
	if err := s.CreateContainer(t.Context(), h.container("c1", h.volume("v"))); !errors.Is(err, volume.ErrDisabled) {
		t.Errorf("error %v", err)
	}
	if err := s.CreateContainer(t.Context(), h.container("c2")); err != nil {
		t.Errorf("one without a volume: %v", err)
	}
}

func TestProcessesAreNamedForTheAgent(t *testing.T) {
	h := newHost(t)
	s := h.create()
	if err := s.CreateContainer(t.Context(), h.container("c1")); err != nil {
		t.Fatal(err)
	}
	if err := s.CreateContainer(t.Context(), h.container("c1")); !errors.Is(err, ErrExists) {
		t.Errorf("a second c1: %v", err)
	}
	if err := s.Exec(t.Context(), "c1", "e1", &specs.Process{Args: []string{"true"}}); err != nil {
		t.Fatal(err)
	}
	if err := s.Exec(t.Context(), "c1", "e1", &specs.Process{Args: []string{"true"}}); !errors.Is(err, ErrExists) {
		t.Errorf("a second e1: %v", err)
	}
	for _, sig := range []struct {
		exec string
		all  bool
	}{{"", false}, {"", true}, {"e1", false}} {
		if err := s.Signal(t.Context(), "c1", sig.exec, syscall.SIGTERM, sig.all); err != nil {
			t.Error(err)
		}
	}
	if code, err := s.Wait(t.Context(), "c1", "e1"); code != 7 || err != nil {
		t.Errorf("exit %d, %v", code, err)
	}
	if _, err := s.Wait(t.Context(), "c1", "e1"); !errors.Is(err, ErrNotFound) {
		t.Errorf("a process that has been waited for: %v", err)
	}
	if _, err := s.Stdout("c1", "e1").Read(make([]byte, 1)); !errors.Is(err, ErrNotFound) {
		t.Errorf("its output: %v", err)
	}
	uuid := `[0-9a-f-]{36}`
	want := regexp.MustCompile(`ExecProcess c1/(` + uuid + `)\nSignalProcess c1/c1 15\nSignalProcess c1/ 15\nSignalProcess c1/(` +
		uuid + `) 15\nWaitProcess c1/(` + uuid + `)$`)
	got := want.FindStringSubmatch(strings.Join(h.agent.calls, "\n"))
	if got == nil || got[1] != got[2] || got[2] != got[3] {
		t.Errorf("the agent was told\n%s", strings.Join(h.agent.calls, "\n"))
	}
}

func TestWhatDiesTakesTheSandboxDownWithTheReason(t *testing.T) {
	for _, tc := range []struct {
		name string
		kill func(*host, *Sandbox)
		is   error
		says string
	}{
		{"the machine", func(h *host, _ *Sandbox) { h.machine.die(errInjected) }, errInjected, "virtual machine is gone"},
		{"virtiofsd", func(_ *host, s *Sandbox) { _ = syscall.Kill(s.share.Daemon().PID, syscall.SIGKILL) }, nil, "virtiofsd ended"},
		{"the connection to the agent", func(h *host, _ *Sandbox) { _ = h.machine.conns[0].Close() }, agentclient.ErrGone, "guest is dead"},
		{"the agent's answers", func(h *host, _ *Sandbox) { h.t.Cleanup(h.agent.stopAnswering()) }, nil, "guest is dead"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			h := newHost(t)
			s := h.create()
			if err := s.CreateContainer(t.Context(), h.container("c1", h.volume("v"))); err != nil {
				t.Fatal(err)
			}
			tc.kill(h, s)
			select {
			case <-s.Done():
			case <-time.After(20 * time.Second):
				t.Fatal("nothing was noticed")
			}
			if err := s.Err(); err == nil || tc.is != nil && !errors.Is(err, tc.is) || !strings.Contains(err.Error(), tc.says) {
				t.Errorf("reason %v, want %v with %q", err, tc.is, tc.says)
			}
			<-h.machine.Done()
			if err := s.CreateContainer(t.Context(), h.container("c2")); !errors.Is(err, ErrStopping) {
				t.Errorf("a new container: %v", err)
			}
			if err := s.RemoveContainer(t.Context(), "c1"); err != nil {
				t.Errorf("remove: %v", err)
			}
			if err := s.Stop(t.Context()); err != nil {
				t.Fatal(err)
			}
			h.nothingLeft()
		})
	}
}

func TestAMachineThatStandsStillForWantOfSpaceIsNotKilled(t *testing.T) {
	h := newHost(t)
	h.options.times.checkDeadline = 20 * time.Millisecond
	s := h.create()
	s.noSpace.Store(true)
	resume := h.agent.stopAnswering()
	select {
	case <-s.Done():
		t.Fatalf("it was killed: %v", s.Err())
	case <-time.After(10 * h.options.times.checkDeadline):
	}
	h.agent.mu.Lock()
	h.agent.hang = nil
	h.agent.mu.Unlock()
	resume()
	s.noSpace.Store(false)
	if err := s.CreateContainer(t.Context(), h.container("c1")); err != nil {
		t.Errorf("afterwards: %v", err)
	}
}

func TestStopIsBoundedWhenTheGuestDoesNotAnswer(t *testing.T) {
	h := newHost(t)
	h.options.times.checkPeriod = time.Hour
	s := h.create()
	if err := s.CreateContainer(t.Context(), h.container("c1", h.volume("v"))); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(h.agent.stopAnswering())
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if err := s.Stop(ctx); err != nil {
		t.Fatal(err)
	}
	h.nothingLeft()
}

func TestNothingIsGivenBackWhileTheHypervisorLives(t *testing.T) {
	h := newHost(t)
	s := h.create()
	if err := s.CreateContainer(t.Context(), h.container("c1", h.volume("v"))); err != nil {
		t.Fatal(err)
	}
	h.machine.failStop = errInjected
	if err := s.Stop(t.Context()); !errors.Is(err, errInjected) {
		t.Errorf("error %v", err)
	}
	if id, err := h.roots.records().SandboxFor(t.Context(), h.dir+"/target/v"); id != "s1" {
		t.Errorf("claimed by %q, %v", id, err)
	}
	h.machine.failStop = nil
	if err := s.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	h.nothingLeft()
}

func TestAFreshProcessCleansUpAfterADeadShim(t *testing.T) {
	h := newHost(t)
	s := h.create()
	r := h.container("c1", bind(h.folder("dir"), "/dir"), h.volume("v"))
	if err := s.CreateContainer(t.Context(), r); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := Cleanup(t.Context(), "s1", h.roots); err != nil {
			t.Fatal(err)
		}
	}
	_ = s.lease.Close() // as the end of the shim's process does
	h.nothingLeft()
	if err := Cleanup(t.Context(), "../s1", h.roots); !errors.Is(err, directvolume.ErrInvalidSandbox) {
		t.Errorf("an id that leads elsewhere: %v", err)
	}
}

func TestCleanupDoesNotNeedAWholeStateFile(t *testing.T) {
	h := newHost(t)
	s := h.create()
	if err := os.WriteFile(h.roots.stateFile("s1"), []byte(`{"bundle":`), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := s.share.Daemon().Kill(t.Context()); err != nil { // as the kernel does at the end of the shim
		t.Fatal(err)
	}
	if err := Cleanup(t.Context(), "s1", h.roots); err != nil {
		t.Fatal(err)
	}
	_ = s.lease.Close()
	_ = os.Remove(filepath.Join(h.options.Bundle, monitorAddress)) // goes with the bundle
	h.nothingLeft()
}

func TestTheMachineIsWhatTheConfigurationSays(t *testing.T) {
	h := newHost(t)
	h.options.Config.Hypervisor.EnableAnnotations = []string{"default_memory"}
	h.options.Config.Hypervisor.KernelParams = "a=1  b"
	h.options.Config.Hypervisor.BlockDriver = config.BlockVirtioSCSI
	h.options.Config.Agent.Debug = true
	h.options.Spec.Annotations = map[string]string{"io.katacontainers.config.hypervisor.default_memory": "512"}
	s := h.create()
	got, err := s.machineConfig()
	if err != nil {
		t.Fatal(err)
	}
	if got.ID != "s1" || got.Dir != h.roots.VM+"/s1" || got.MemoryMiB != 512 || got.BlockDriver != "virtio-scsi" ||
		!slices.Equal(got.KernelParams, []string{"a=1", "b", "agent.log=debug"}) || got.Lease != s.lease ||
		got.ShareSocket != h.roots.Run+"/s1/vhost-fs.sock" || got.ShareTag != "kataShared" {
		t.Errorf("machine %+v", got)
	}
}
