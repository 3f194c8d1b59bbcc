package volume

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/katadirect/katadirect/pkg/agentproto"
	"github.com/katadirect/katadirect/pkg/directvolume"
	"github.com/katadirect/katadirect/pkg/runtime/agentclient"
)

// attached is a volume in use: its device, and where the guest has it.
func (h *host) attached(change func(*directvolume.Record)) (device string, use Use) {
	h.t.Helper()
	path := h.record("v", change)
	use, err := h.set.Attach(h.t.Context(), "c1", path)
	if err != nil {
		h.t.Fatal(err)
	}
	h.set.Expose("c1")
	return h.set.List()[0].Device, use
}

func TestFreezeAsksTheAgentForTheGuestPath(t *testing.T) {
	h := newHost(t)
	device, use := h.attached(nil)
	for limit, want := range map[time.Duration]time.Duration{
		0: directvolume.DefaultFreeze, time.Second: time.Second, directvolume.MaxFreeze: directvolume.MaxFreeze,
	} {
		f, err := h.set.Freeze(t.Context(), device, limit)
		if err != nil || f.ID != 3 || f.RemainingMilliseconds != uint64(want.Milliseconds()) {
			t.Errorf("for %v: %+v, %v", limit, f, err)
		}
	}
	if !slices.Contains(h.guest.asked, use.GuestPath) {
		t.Errorf("asked for %q, not for %s", h.guest.asked, use.GuestPath)
	}
	for id, want := range map[uint64]directvolume.Thaw{
		3: {WasFrozen: true, Ended: "be[31mcause"}, 4: {Ended: "be[31mcause"},
	} {
		if got, err := h.set.Thaw(t.Context(), device, id); err != nil || got != want {
			t.Errorf("thaw of %d: %+v, %v", id, got, err)
		}
	}
	h.guest.fail = &agentclient.Error{Method: "Thaw", Code: codes.NotFound}
	if got, err := h.set.Thaw(t.Context(), device, 3); err != nil || got.WasFrozen || got.Ended == "" {
		t.Errorf("thaw of what is not mounted any more: %+v, %v", got, err)
	}
}

func TestWhatCannotBeFrozenIsRefusedByName(t *testing.T) {
	for name, tc := range map[string]struct {
		record func(*directvolume.Record)
		limit  time.Duration
		spoil  func(h *host)
		want   error
	}{
		"for too long":       {nil, directvolume.MaxFreeze + 1, func(*host) {}, ErrLimit},
		"for less than 0":    {nil, -1, func(*host) {}, ErrLimit},
		"read-only":          {func(r *directvolume.Record) { r.Options = []string{"ro"} }, 0, func(*host) {}, ErrReadOnly},
		"Kata's agent":       {nil, 0, func(h *host) { h.set.Features.Freeze = false }, ErrCannotFreeze},
		"an agent that lied": {nil, 0, func(h *host) { h.guest.fail = unimplemented }, ErrCannotFreeze},
		"not in use":         {nil, 0, func(h *host) { h.set.withoutUser("c1") }, ErrNotMounted},
	} {
		t.Run(name, func(t *testing.T) {
			h := newHost(t)
			device, _ := h.attached(tc.record)
			tc.spoil(h)
			if _, err := h.set.Freeze(t.Context(), device, tc.limit); !errors.Is(err, tc.want) {
				t.Errorf("%v, want %v", err, tc.want)
			}
		})
	}
	h := newHost(t)
	if _, err := h.set.Freeze(t.Context(), h.dir, 0); !errors.Is(err, ErrUnknown) {
		t.Errorf("a device of nobody: %v", err)
	}
}

func TestDescribeTellsWhatRecordMachineAndGuestKnow(t *testing.T) {
	h := newHost(t)
	device, use := h.attached(func(r *directvolume.Record) { r.Metadata = map[string]string{directvolume.MetadataVolumeID: "vol-1"} })
	h.guest.stats = &agentproto.VolumeStatsResponse{
		Usage:           []*agentproto.VolumeUsage{{Unit: agentproto.VolumeUsage_BYTES, Total: 30, Used: 20}},
		VolumeCondition: &agentproto.VolumeCondition{Message: "OK"},
	}
	h.guest.mounted = &agentproto.ListResponse{Volumes: []*agentproto.MountedVolume{
		{VolumeGuestPath: "/elsewhere", Device: "/dev/vdz"},
		{VolumeGuestPath: use.GuestPath, Device: "/dev/vda\x1b[2J", Fstype: "xfs", DeviceBytes: 4096,
			FrozenMilliseconds: 1 << 62, RemainingMilliseconds: 1 << 62},
	}}
	list := h.set.Describe(t.Context())
	if len(list) != 1 {
		t.Fatalf("%+v", list)
	}
	v := list[0]
	if v.Device != device || v.VolumeID != "vol-1" || v.GuestDevice != "/dev/vda[2J" || v.FSType != "xfs" ||
		v.SizeBytes != 4096 || len(v.Containers) != 1 || len(v.VolumePaths) != 1 || v.Problem != "" ||
		len(v.Usage) != 1 || v.Usage[0].Used != 20 || v.Condition.Message != "OK" {
		t.Errorf("%+v", v)
	}
	if v.Frozen == nil || time.Since(v.Frozen.Since) > 2*directvolume.MaxFreeze || v.Frozen.RemainingMilliseconds != uint64(directvolume.MaxFreeze.Milliseconds()) {
		t.Errorf("frozen %+v", v.Frozen)
	}
	h.guest.fail = errInjected
	if v := h.set.Describe(t.Context())[0]; !strings.Contains(v.Problem, "injected") || v.FSType != "ext4" || v.Usage != nil {
		t.Errorf("of a guest that does not answer: %+v", v)
	}
}
