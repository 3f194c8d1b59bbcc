package sandbox

import (
	"errors"
	"os"
	"strings"
	"testing"

	"github.com/containerd/containerd/api/types"

	"github.com/katadirect/katadirect/pkg/runtime/config"
	"github.com/katadirect/katadirect/pkg/runtime/filecopy"
	"github.com/katadirect/katadirect/pkg/runtime/qemu"
	"github.com/katadirect/katadirect/pkg/runtime/sandbox/guestspec"
	"github.com/katadirect/katadirect/pkg/runtime/vm"
)

func TestWithoutAFileShareNothingIsServedAndFilesAreCopied(t *testing.T) {
	h := newHost(t)
	h.options.Config.Hypervisor.SharedFS = config.SharedNone
	var machine qemu.Config
	h.options.newMachine = func(c qemu.Config) vm.Machine { machine = c; return h.machine }
	s := h.create()
	if machine.ShareSocket != "" || s.Metrics(t.Context()).VirtiofsdPID != 0 {
		t.Errorf("the machine has a share at %q", machine.ShareSocket)
	}
	for _, storage := range h.agent.sandbox.GetStorages() {
		if storage.GetDriver() == "virtio-fs" {
			t.Errorf("the guest is to mount %v", storage)
		}
	}
	disk := h.folder("pods/p/volumes/kubernetes.io~empty-dir/cache")
	c := h.container("c1", bind(h.file("hosts", "one"), "/etc/hosts"), bind(disk, "/cache"))
	if err := s.CreateContainer(t.Context(), c); !errors.Is(err, filecopy.ErrNoShare) {
		t.Fatalf("a root file system in a folder: %v", err)
	}
	c.Rootfs = []*types.Mount{{Type: "ext4", Source: h.file("rootfs.img", "disk"), Options: []string{"loop"}}}
	if err := s.CreateContainer(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	if !h.agent.called("CopyFile one") {
		t.Errorf("the guest was told %v", h.agent.calls)
	}
	local := false
	for _, storage := range h.agent.requests["c1"].GetStorages() {
		local = local || storage.GetDriver() == "local" && storage.GetMountPoint() == guestspec.LocalPath(disk)
	}
	if !local {
		t.Errorf("the emptyDir is none of %v", h.agent.requests["c1"].GetStorages())
	}
	if words, err := s.LastWords(t.Context(), "c1"); words != "why" || err != nil || !h.agent.called("GetDiagnosticData termination_log c1") {
		t.Errorf("the container's last words: %q, %v; the guest was told %v", words, err, h.agent.calls)
	}
	if err := s.RemoveContainer(t.Context(), "c1"); err != nil {
		t.Fatal(err)
	}
	writable := h.container("c2", bind(h.folder("host"), "/host"))
	writable.Rootfs = c.Rootfs
	if err := s.CreateContainer(t.Context(), writable); !errors.Is(err, filecopy.ErrNoShare) || !strings.Contains(err.Error(), "/host") {
		t.Errorf("a folder to write to: %v", err)
	}
	if err := s.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	h.nothingLeft()
	if _, err := os.Lstat(h.roots.Share + "/s1"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a shared folder was made: %v", err)
	}
}
