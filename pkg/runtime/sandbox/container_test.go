package sandbox

import (
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"strings"
	"syscall"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/katadirect/katadirect/pkg/directvolume"
	"github.com/katadirect/katadirect/pkg/runtime/share"
	"github.com/katadirect/katadirect/pkg/runtime/volume"
)

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
	if words, err := s.LastWords(t.Context(), "c1"); words != "" || err != nil || h.agent.called("GetDiagnosticData termination_log c1") {
		t.Errorf("the guest is asked for a file that the host shares: %q, %v", words, err)
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
	if entries := h.shared(); len(entries) > 0 {
		t.Errorf("still shared: %v", entries)
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
			h.agent.failWith("CreateContainer", status.Error(codes.Internal, "no room"))
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
			if entries := h.shared(); len(entries) > 0 {
				t.Errorf("still shared: %v", entries)
			}
			// The guest may have seen the disk only where the agent was asked.
			if seen := h.agent.called("CreateContainer c1"); (len(h.machine.plugged) == 1) != seen {
				t.Errorf("plugged in %v, the agent was asked: %v", h.machine.plugged, seen)
			}
			h.agent.failWith("CreateContainer", nil)
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
	if _, err := s.Stdout(t.Context(), "c1", "e1").Read(make([]byte, 1)); !errors.Is(err, ErrNotFound) {
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
