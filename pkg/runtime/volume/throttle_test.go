package volume

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/katadirect/katadirect/internal/condition"
	"github.com/katadirect/katadirect/pkg/agentproto"
	"github.com/katadirect/katadirect/pkg/directvolume"
	"github.com/katadirect/katadirect/pkg/runtime/vm"
)

func limited(text string) func(*directvolume.Record) {
	return func(r *directvolume.Record) { r.Metadata = map[string]string{directvolume.MetadataLimits: text} }
}

// theLimits are those of the one disk that is plugged in.
func (h *host) theLimits() vm.DiskLimits {
	h.t.Helper()
	for id := range h.machine.plugged {
		return h.machine.limits[id]
	}
	h.t.Fatal("nothing is plugged in")
	return vm.DiskLimits{}
}

func TestARecordsLimitsHoldFromThePlugOnAndChangeWhileInUse(t *testing.T) {
	h := newHost(t)
	device, _ := h.attached(limited("readIops=100,writeIops=50"))
	if got, want := h.theLimits(), (vm.DiskLimits{ReadIOPS: 100, WriteIOPS: 50}); got != want {
		t.Errorf("plugged with %+v, want %+v", got, want)
	}
	for _, limits := range []directvolume.Limits{{IOPS: 20, BurstIOPS: 40, BurstSeconds: 2}, {}} {
		if err := h.set.Throttle(t.Context(), device, limits); err != nil {
			t.Fatal(err)
		}
		if got := h.theLimits(); got != vm.DiskLimits(limits) {
			t.Errorf("has %+v, want %+v", got, limits)
		}
	}
}

func TestAVolumeWithoutLimitsIsNotThrottled(t *testing.T) {
	h := newHost(t)
	h.machine.failThrottle = errInjected // a machine that cannot is no harm
	h.attached(nil)
}

func TestAVolumeWhoseLimitsCannotBeSetIsNotGivenAway(t *testing.T) {
	h := newHost(t)
	h.machine.failThrottle = errInjected
	_, err := h.set.Attach(t.Context(), "c1", h.record("v", limited("iops=100")))
	if !errors.Is(err, errInjected) || !strings.Contains(err.Error(), "iops=100") {
		t.Errorf("%v", err)
	}
	if len(h.machine.plugged) != 0 {
		t.Error("the disk was left in the machine")
	}
}

func TestThrottleRefusesWhatItCannotDo(t *testing.T) {
	h := newHost(t)
	device, _ := h.attached(nil)
	if err := h.set.Throttle(t.Context(), device, directvolume.Limits{IOPS: 100, ReadIOPS: 100}); !errors.Is(err, ErrLimits) {
		t.Errorf("limits that make no sense: %v", err)
	}
	if err := h.set.Throttle(t.Context(), t.TempDir(), directvolume.Limits{}); !errors.Is(err, ErrUnknown) {
		t.Errorf("a volume of nobody: %v", err)
	}
	h.machine.failThrottle = vm.ErrGone
	if err := h.set.Throttle(t.Context(), device, directvolume.Limits{IOPS: 100}); !errors.Is(err, vm.ErrGone) {
		t.Errorf("no machine: %v", err)
	}
}

func TestErrorsOnTheHostAreToldOfWhateverTheGuestSays(t *testing.T) {
	h := newHost(t)
	device, _ := h.attached(nil)
	for _, said := range []*agentproto.VolumeCondition{
		{Message: "OK"}, {Abnormal: true, Message: "ReadOnly: so it is" + strings.Repeat(".", 5000)}, nil,
	} {
		h.machine.faults = vm.DiskFaults{}
		h.guest.stats = &agentproto.VolumeStatsResponse{VolumeCondition: said}
		stats, err := h.set.Stats(t.Context(), device)
		if err != nil || stats.Condition.Abnormal != said.GetAbnormal() {
			t.Fatalf("without errors: %+v, %v", stats, err)
		}
		h.machine.faults = vm.DiskFaults{Reads: 2, Writes: 3, Last: time.Unix(0, 0), Reason: "Input/output error"}
		stats, err = h.set.Stats(t.Context(), device)
		if err != nil || !stats.Condition.Abnormal {
			t.Fatalf("with errors: %+v, %v", stats, err)
		}
		found := condition.Parse(stats.Condition.Message)
		if found[0].Reason != condition.HostIOErrors || !strings.Contains(found[0].Message, "2 reads and 3 writes") ||
			len(found) != 1+min(1, len(said.GetMessage())/10) {
			t.Errorf("%+v", found)
		}
	}
}

func TestARawVolumesLimitsAreThoseOfItsRecordAndChangeByItsFile(t *testing.T) {
	h := newHost(t)
	device := h.loop("v")
	path := h.folder("target/raw")
	err := h.records.Add(t.Context(), path, directvolume.Record{
		VolumeType: directvolume.VolumeTypeBlock, Device: h.device("v"),
		Metadata: map[string]string{directvolume.MetadataLimits: "iops=100"},
	})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := h.set.AttachRaw(t.Context(), "c1", device, false); err != nil {
		t.Fatal(err)
	}
	if got := h.theLimits(); got.IOPS != 100 {
		t.Errorf("plugged with %+v", got)
	}
	// The driver knows the image, the machine has the loop device.
	if err := h.set.Throttle(t.Context(), h.device("v"), directvolume.Limits{WriteIOPS: 50}); err != nil {
		t.Fatal(err)
	}
	if got := h.theLimits(); got != (vm.DiskLimits{WriteIOPS: 50}) {
		t.Errorf("has %+v", got)
	}
}
