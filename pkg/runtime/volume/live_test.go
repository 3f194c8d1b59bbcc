package volume

import (
	"errors"
	"math"
	"strings"
	"testing"

	"github.com/katadirect/katadirect/pkg/agentproto"
	"github.com/katadirect/katadirect/pkg/directvolume"
	"github.com/katadirect/katadirect/pkg/runtime/agentclient"
	"github.com/katadirect/katadirect/pkg/runtime/vm"
)

// use makes a volume that a container has mounted.
func (h *host) use(name string) (device string) {
	h.t.Helper()
	h.attach("c1", h.record(name, nil))
	h.set.Expose("c1")
	return h.device(name)
}

func TestResizeGrowsTheDiskAndThenTheFileSystem(t *testing.T) {
	h := newHost(t)
	device := h.use("v")
	for range 2 { // a retry of what has been done is success
		if err := h.set.Resize(t.Context(), device, 2<<30); err != nil {
			t.Fatal(err)
		}
	}
	for id := range h.machine.plugged {
		if h.machine.sizes[id] != 2<<30 {
			t.Errorf("disk of %d bytes", h.machine.sizes[id])
		}
	}
	if got := h.guest.resized["/run/kata-containers/sandbox/storage/MDIvMDE="]; got != 2<<30 {
		t.Errorf("the agent was told %d bytes", got)
	}
}

func TestAVolumeBetweenTwoContainersGrowsItsDiskOnly(t *testing.T) {
	h := newHost(t)
	device := h.use("v")
	h.detach("c1")
	if err := h.set.Resize(t.Context(), device, 2<<30); err != nil {
		t.Fatal(err)
	}
	if len(h.machine.sizes) != 1 || len(h.guest.resized) != 0 {
		t.Errorf("disks %v, told the agent %v", h.machine.sizes, h.guest.resized)
	}
	if _, err := h.set.Stats(t.Context(), device); !errors.Is(err, ErrNotMounted) {
		t.Errorf("stats of what is not mounted: %v", err)
	}
}

func TestAContainerThatMountsTheVolumeWhileItsDiskGrowsGetsTheNewSize(t *testing.T) {
	h := newHost(t)
	path := h.record("v", nil)
	h.attach("c1", path)
	h.set.Expose("c1")
	h.detach("c1")
	h.machine.onResize = func() { // the guest mounts it in the old size
		h.attach("c2", path)
		h.set.Expose("c2")
	}
	if err := h.set.Resize(t.Context(), h.device("v"), 2<<30); err != nil {
		t.Fatal(err)
	}
	if len(h.guest.resized) != 1 {
		t.Error("success was reported, and nobody grows the file system")
	}
}

func TestResizeThatCannotBeDoneSaysWhy(t *testing.T) {
	for _, tc := range []struct {
		name    string
		before  func(h *host)
		device  string
		size    uint64
		want    error
		touched bool
	}{
		{"smaller", func(h *host) { h.machine.failSize = vm.ErrShrink }, "v", 1, vm.ErrShrink, false},
		{"a device of no volume", func(h *host) { h.record("w", nil) }, "w", 1 << 20, ErrUnknown, false},
		{"a device that is gone", func(*host) {}, "none", 1 << 20, directvolume.ErrDevice, false},
		{"an agent that cannot", func(h *host) { h.set.Features = agentclient.Features{} }, "v", 1 << 20, ErrCannotGrow, false},
		{"nobody to grow it later", func(h *host) {
			h.set.Features = agentclient.Features{ResizeVolume: true}
			h.detach("c1")
		}, "v", 1 << 20, ErrCannotGrow, false},
		{"an agent that only says it can", func(h *host) { h.guest.fail = unimplemented }, "v", 1 << 20, ErrCannotGrow, true},
		{"an agent that fails", func(h *host) { h.guest.fail = agentclient.ErrNoAnswer }, "v", 1 << 20, agentclient.ErrNoAnswer, true},
		{"no size", func(*host) {}, "v", 0, nil, false},
		{"an impossible size", func(*host) {}, "v", math.MaxInt64 + 1, nil, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			h := newHost(t)
			h.use("v")
			tc.before(h)
			err := h.set.Resize(t.Context(), h.device(tc.device), tc.size)
			if err == nil || tc.want != nil && !errors.Is(err, tc.want) || !strings.Contains(err.Error(), h.device(tc.device)) {
				t.Errorf("error %v, want %v with the device's name", err, tc.want)
			}
			if touched := len(h.machine.sizes) > 0; touched != tc.touched {
				t.Errorf("disk resized: %v, want %v", touched, tc.touched)
			}
		})
	}
}

func TestAReadOnlyVolumeIsNotResized(t *testing.T) {
	h := newHost(t)
	h.attach("c1", h.record("v", func(r *directvolume.Record) { r.Options = []string{"ro"} }))
	h.set.Expose("c1")
	if err := h.set.Resize(t.Context(), h.device("v"), 1<<30); !errors.Is(err, ErrReadOnly) {
		t.Errorf("error %v", err)
	}
}

func TestStatsAreTheGuests(t *testing.T) {
	h := newHost(t)
	device := h.use("v")
	h.guest.stats = &agentproto.VolumeStatsResponse{
		Usage: []*agentproto.VolumeUsage{
			{Available: 10, Total: 30, Used: 20, Unit: agentproto.VolumeUsage_BYTES},
			{Available: 5, Total: 5, Unit: agentproto.VolumeUsage_INODES},
		},
		VolumeCondition: &agentproto.VolumeCondition{Abnormal: true, Message: "read-only\xff" + strings.Repeat("x", 1<<20)},
	}
	got, err := h.set.Stats(t.Context(), device)
	if err != nil {
		t.Fatal(err)
	}
	bytes, _ := got.Of(directvolume.UnitBytes)
	inodes, _ := got.Of(directvolume.UnitInodes)
	if (bytes != directvolume.VolumeUsage{Available: 10, Total: 30, Used: 20, Unit: 1}) || inodes.Total != 5 {
		t.Errorf("stats %+v", got)
	}
	if c := got.Condition; !c.Abnormal || !strings.HasPrefix(c.Message, "read-onlyx") || len(c.Message) > maxMessageBytes {
		t.Errorf("condition of %d bytes: %.20q", len(c.Message), c.Message)
	}
	if _, err := h.set.Stats(t.Context(), h.dir); !errors.Is(err, ErrUnknown) {
		t.Errorf("an unknown path: %v", err)
	}
}
