package csi

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"

	"github.com/katadirect/katadirect/pkg/directvolume"
)

func TestExpandGrowsImageRecordAndGuest(t *testing.T) {
	h := newHost(t)
	v, target := h.published("pvc")
	s := h.runShim("sandbox1", nil)
	s.claim(target)
	got, err := v.expand(t.Context(), target, 2*gib)
	must(t, err)
	if got != 2*gib || fileSize(t, v.image()) != 2*gib {
		t.Errorf("answered %d bytes, image has %d, want %d", got, fileSize(t, v.image()), 2*gib)
	}
	record, err := h.store().Get(t.Context(), target)
	if err != nil || record.Metadata[directvolume.MetadataSizeBytes] != fmt.Sprint(2*gib) {
		t.Errorf("the record is %+v, %v", record, err)
	}
	want := directvolume.ResizeRequest{VolumePath: v.image(), Size: uint64(2 * gib)}
	if asked := s.asked(); !slices.Equal(asked, []directvolume.ResizeRequest{want}) {
		t.Errorf("the guest was asked for %v, want %v", asked, want)
	}
	if sandbox, err := h.store().SandboxFor(t.Context(), target); sandbox != "sandbox1" || err != nil {
		t.Errorf("the claim is %q, %v", sandbox, err)
	}
}

// kubelet names the staging path when a pod starts, and the target path while one runs.
func TestExpandThroughTheStagingPathReachesTheGuest(t *testing.T) {
	h := newHost(t)
	v, target := h.published("pvc")
	s := h.runShim("sandbox1", nil)
	s.claim(target)
	_, err := v.expand(t.Context(), h.staging(v.id), 2*gib)
	must(t, err)
	if len(s.asked()) != 1 {
		t.Errorf("the guest was asked for %v", s.asked())
	}
}

func TestExpandWithoutAMachineGrowsTheImage(t *testing.T) {
	h := newHost(t)
	v, target := h.create("pvc"), h.target("pod")
	_, err := v.expand(t.Context(), target, 2*gib)
	refused(t, err, codes.NotFound, target) // neither staged nor published there
	must(t, v.stage())
	_, err = v.expand(t.Context(), h.staging(v.id), 2*gib)
	must(t, err)
	must(t, v.publish(target))
	_, err = v.expand(t.Context(), target, 3*gib)
	must(t, err)
	s := h.runShim("sandbox1", nil)
	s.claim(target)
	s.die()
	_, err = v.expand(t.Context(), target, 4*gib)
	must(t, err)
	if got := fileSize(t, v.image()); got != 4*gib {
		t.Errorf("the image has %d bytes, want %d", got, 4*gib)
	}
	if len(s.asked()) != 0 {
		t.Errorf("a dead machine was asked for %v", s.asked())
	}
}

// A torn record says nothing of the volume it is for, and the machine goes on writing.
func TestExpandIsNotDoneWhileAMachineThatNoRecordNamesHasTheImage(t *testing.T) {
	h := newHost(t)
	v, target := h.published("pvc")
	image, err := os.OpenFile(v.image(), os.O_RDWR, 0)
	must(t, err)
	must(t, unix.FcntlFlock(image.Fd(), unix.F_OFD_SETLK, &unix.Flock_t{Type: unix.F_RDLCK, Start: 100, Len: 1}))
	_, err = v.expand(t.Context(), target, 2*gib)
	refused(t, err, codes.FailedPrecondition, "no readable record")
	must(t, image.Close())
	_, err = v.expand(t.Context(), target, 2*gib)
	must(t, err)
}

func TestExpandNeverShrinks(t *testing.T) {
	h := newHost(t)
	v, target := h.published("pvc")
	got, err := v.expand(t.Context(), target, gib/2)
	if err != nil || got != gib {
		t.Errorf("asked for less: %d, %v; want what it has", got, err)
	}
	_, err = h.NodeExpandVolume(t.Context(), &csi.NodeExpandVolumeRequest{
		VolumeId: v.id, VolumePath: target, CapacityRange: &csi.CapacityRange{LimitBytes: gib / 2},
	})
	refused(t, err, codes.OutOfRange, "smaller")
	_, err = v.expand(t.Context(), target, -1)
	refused(t, err, codes.InvalidArgument)
	if got := fileSize(t, v.image()); got != gib {
		t.Errorf("the image has %d bytes", got)
	}
}

func TestExpandBeyondThePoolIsRefusedBeforeAnythingHappens(t *testing.T) {
	h := newHost(t)
	v, target := h.published("pvc")
	s := h.runShim("sandbox1", nil)
	s.claim(target)
	capacity, err := h.GetCapacity(t.Context(), &csi.GetCapacityRequest{})
	must(t, err)
	_, err = v.expand(t.Context(), target, capacity.GetAvailableCapacity()+2*gib)
	refused(t, err, codes.ResourceExhausted)
	_, err = v.expand(t.Context(), target, 1<<62)
	refused(t, err, codes.OutOfRange)
	if fileSize(t, v.image()) != gib || len(s.asked()) != 0 {
		t.Errorf("image of %d bytes, guest asked for %v", fileSize(t, v.image()), s.asked())
	}
}

func TestExpandSaysWhenTheRuntimeCannotResize(t *testing.T) {
	for name, answer := range map[string]http.HandlerFunc{
		"our shim":        answerWith(http.StatusNotImplemented, "the guest's agent cannot grow a file system"),
		"Kata's Go shim":  answerWith(http.StatusInternalServerError, "rpc error: code = Unimplemented desc = /grpc.AgentService/ResizeVolume is not supported"),
		"Kata's own text": answerWith(http.StatusInternalServerError, "resize volume is not implemented"),
	} {
		t.Run(name, func(t *testing.T) {
			h := newHost(t)
			v, target := h.published("pvc")
			s := h.runShim("sandbox1", map[string]http.HandlerFunc{directvolume.PathResize: answer})
			s.claim(target)
			_, err := v.expand(t.Context(), target, 2*gib)
			refused(t, err, codes.FailedPrecondition, "sandbox1", "when the pod is started again")
			s.release(target)
			got, err := v.expand(t.Context(), target, 2*gib) // the pod has ended
			if err != nil || got != 2*gib {
				t.Errorf("expand without the machine: %d, %v", got, err)
			}
		})
	}
}

func TestExpandThatFailedInTheGuestIsFinishedByARetry(t *testing.T) {
	h := newHost(t)
	v, target := h.published("pvc")
	failed := false
	s := h.runShim("sandbox1", map[string]http.HandlerFunc{
		directvolume.PathResize: func(w http.ResponseWriter, _ *http.Request) {
			if !failed {
				failed = true
				http.Error(w, "the guest is busy", http.StatusInternalServerError)
			}
		},
	})
	s.claim(target)
	_, err := v.expand(t.Context(), target, 2*gib)
	refused(t, err, codes.Unavailable, "the guest is busy")
	got, err := v.expand(t.Context(), target, 2*gib)
	if err != nil || got != 2*gib || len(s.asked()) != 2 {
		t.Errorf("retry: %d, %v, guest asked %d times", got, err, len(s.asked()))
	}
}

func TestExpandWaitsForAGuestOnlyAsLongAsItMay(t *testing.T) {
	h := newHost(t)
	v, target := h.published("pvc")
	s := h.runShim("sandbox1", map[string]http.HandlerFunc{directvolume.PathResize: answerNever(t)})
	s.claim(target)
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	_, err := v.expand(ctx, target, 2*gib)
	refused(t, err, codes.DeadlineExceeded)
}

func TestControllerExpandAnswersForEveryNode(t *testing.T) {
	h := newHost(t)
	v := h.create("pvc")
	foreign := "kd-00000000-" + v.id[len("kd-00000000-"):]
	tests := map[string]struct {
		id   string
		size *csi.CapacityRange
		want int64
		code codes.Code
	}{
		"a volume here":              {v.id, &csi.CapacityRange{RequiredBytes: 2*gib - 1}, 2 * gib, codes.OK},
		"a volume here, less":        {v.id, &csi.CapacityRange{RequiredBytes: gib / 2}, gib, codes.OK},
		"a volume here, too much":    {v.id, &csi.CapacityRange{RequiredBytes: 1 << 43}, 0, codes.ResourceExhausted},
		"a volume here, shrinking":   {v.id, &csi.CapacityRange{LimitBytes: gib / 2}, 0, codes.OutOfRange},
		"no volume here":             {h.driver.pool.ID("none"), &csi.CapacityRange{RequiredBytes: gib}, 0, codes.NotFound},
		"a volume elsewhere":         {foreign, &csi.CapacityRange{RequiredBytes: 2*gib - 1}, 2 * gib, codes.OK},
		"a volume elsewhere, limit":  {foreign, &csi.CapacityRange{RequiredBytes: 2*gib - 1, LimitBytes: 2*gib - 1}, 0, codes.OutOfRange},
		"a volume elsewhere, no end": {foreign, &csi.CapacityRange{LimitBytes: gib}, 0, codes.OutOfRange},
		"another driver's volume":    {"vol-0123", &csi.CapacityRange{RequiredBytes: gib}, 0, codes.NotFound},
		"nothing asked":              {v.id, nil, 0, codes.InvalidArgument},
		"zero":                       {v.id, &csi.CapacityRange{}, 0, codes.InvalidArgument},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			r, err := h.ControllerExpandVolume(t.Context(), &csi.ControllerExpandVolumeRequest{VolumeId: test.id, CapacityRange: test.size})
			refused(t, err, test.code)
			if test.code == codes.OK && (r.GetCapacityBytes() != test.want || !r.GetNodeExpansionRequired()) {
				t.Errorf("answered %v, want %d bytes and that the node has to act", r, test.want)
			}
		})
	}
	if got := fileSize(t, v.image()); got != gib {
		t.Errorf("the controller's answer changed the image to %d bytes", got)
	}
}
