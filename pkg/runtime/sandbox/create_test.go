package sandbox

import (
	"errors"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/katadirect/katadirect/pkg/directvolume"
	"github.com/katadirect/katadirect/pkg/runtime/config"
)

func TestASandboxComesUpAndGoesWithoutATrace(t *testing.T) {
	h := newHost(t)
	h.options.Spec.Mounts = []specs.Mount{bind(h.file("resolv.conf", "nameserver 10.0.0.1\n\nsearch x\n"), "/etc/resolv.conf")}
	h.options.Config.Agent.KernelModules = []string{"dummy numdummies=0 x=1", "nbd"}
	s := h.create()
	if !h.alive() {
		t.Error("it does not count as alive")
	}
	got := h.agent.sandbox
	if got.GetHostname() != "pod" || got.GetSandboxId() != "s1" || !slices.Equal(got.GetDns(), []string{"nameserver 10.0.0.1", "search x"}) {
		t.Errorf("the agent was told %v", got)
	}
	if m := got.GetKernelModules(); len(m) != 2 || m[0].GetName() != "dummy" || m[1].GetName() != "nbd" ||
		!slices.Equal(m[0].GetParameters(), []string{"numdummies=0", "x=1"}) || len(m[1].GetParameters()) != 0 {
		t.Errorf("the agent was told of the modules %v", m)
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
		{"an agent that does not serve", func(h *host) { h.agent.failWith("Check", errInjected) }, "Check"},
		{"an agent that tells nothing", func(h *host) { h.agent.failWith("GetGuestDetails", errInjected) }, "GetGuestDetails"},
		{"no sandbox in the guest", func(h *host) { h.agent.failWith("CreateSandbox", errInjected) }, "CreateSandbox"},
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
