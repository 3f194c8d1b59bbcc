package sandbox

import (
	"errors"
	"fmt"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/katadirect/katadirect/pkg/runtime/config"
	"github.com/katadirect/katadirect/pkg/runtime/vm"
)

// formatted records a volume with a file system on it.
func (h *host) formatted(name, destination string) specs.Mount {
	h.t.Helper()
	m := h.blank(name, 16*mib)
	if out, err := exec.Command("mkfs.ext4", "-q", h.dir+"/pool/"+name).CombinedOutput(); err != nil {
		h.t.Fatalf("%s: %v", out, err)
	}
	m.Destination = destination
	return m
}

// 24 is what a node's attach limit commonly is, and 30 what one PCI bridge has places for.
func TestAsManyVolumesAsAMachineHasPlacesFor(t *testing.T) {
	for _, tc := range []struct {
		driver string
		count  int
		full   bool
	}{{config.BlockVirtioBlk, 30, true}, {config.BlockVirtioSCSI, 40, false}} {
		t.Run(tc.driver, func(t *testing.T) {
			h := newMachineHost(t)
			h.options.Config.Hypervisor.BlockDriver = tc.driver
			s := h.create()
			var mounts []specs.Mount
			for i := range tc.count {
				mounts = append(mounts, h.formatted(fmt.Sprintf("v%d", i), fmt.Sprintf("/data/%d", i)))
			}
			begin := time.Now()
			start(t, s, h.busybox("c1", []string{"sleep", "100000"}, mounts[:24]...))
			first := time.Since(begin)
			var slowest time.Duration
			for i, m := range mounts[24:] {
				begin := time.Now()
				start(t, s, h.busybox(fmt.Sprintf("more-%d", i), []string{"sleep", "100000"}, m))
				slowest = max(slowest, time.Since(begin))
			}
			t.Logf("a container with 24 volumes: %s; one more with one volume: at most %s", first, slowest)
			out, status := run(t, s, "c1", "sh", "-c", "i=0; while [ $i -lt 24 ]; do echo $i >/data/$i/file || exit 1; i=$((i+1)); done; sync; mount")
			if status != 0 || strings.Count(out, " on /data/") != 24 {
				t.Errorf("%d %s", status, out)
			}
			err := s.CreateContainer(t.Context(), h.busybox("last", []string{"sleep"}, h.formatted("last", "/data")))
			if !tc.full {
				if err != nil {
					t.Error(err)
				}
				return
			}
			for _, says := range []string{"all 30 slots of 1 PCI bridge", "default_bridges", "virtio-scsi", "pool/last"} {
				if !errors.Is(err, vm.ErrNoSlot) || !strings.Contains(err.Error(), says) {
					t.Errorf("one more than fits: %v, which does not say %q", err, says)
				}
			}
			if got := len(s.volumes.List()); got != 30 {
				t.Errorf("%d disks after the refusal", got)
			}
			// A place that is given back can be taken again: the claim of the refused one was.
			if err := h.roots.records().Remove(t.Context(), h.dir+"/target/last"); err != nil {
				t.Error(err)
			}
		})
	}
}
