package csi

import (
	"encoding/json"
	"net/http"
	"os"
	"strings"
	"sync"
	"testing"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"

	"github.com/katadirect/katadirect/pkg/csi/health"
	"github.com/katadirect/katadirect/pkg/csi/mode"
	"github.com/katadirect/katadirect/pkg/csi/stage"
	"github.com/katadirect/katadirect/pkg/directvolume"
)

func (v volume) modify(parameters map[string]string) error {
	_, err := v.h.ControllerModifyVolume(v.h.t.Context(), &csi.ControllerModifyVolumeRequest{VolumeId: v.id, MutableParameters: parameters})
	return err
}

// recorded are the limits in the record at a target path, in their text form.
func (h *host) recorded(target string) string {
	h.t.Helper()
	record, err := h.store().Get(h.t.Context(), target)
	must(h.t, err)
	return record.Metadata[directvolume.MetadataLimits]
}

// throttled is a shim's answer to PathThrottle that keeps what it was asked for.
type throttled struct {
	mu     sync.Mutex
	limits []directvolume.Limits // guarded by mu
}

func (s *throttled) answer(w http.ResponseWriter, r *http.Request) {
	var request directvolume.ThrottleRequest
	if err := json.NewDecoder(r.Body).Decode(&request); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.limits = append(s.limits, request.Limits)
	w.Write([]byte("{}"))
}

func (s *throttled) last(t *testing.T) directvolume.Limits {
	t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.limits) == 0 {
		t.Fatal("the machine was not told")
	}
	return s.limits[len(s.limits)-1]
}

func TestLimitsReachRecordAndMachineAndSurviveTheDriver(t *testing.T) {
	h := newHost(t)
	v, target := h.published("pvc")
	machine := &throttled{}
	h.runShim("sandbox1", map[string]http.HandlerFunc{directvolume.PathThrottle: machine.answer}).claim(target)
	for _, tc := range []struct {
		given map[string]string
		want  string
	}{
		{map[string]string{"katadirect.io/iops": "200"}, "iops=200"},
		{map[string]string{"katadirect.io/bytesPerSecond": "1048576"}, "iops=200,bytesPerSecond=1048576"}, // the other stays
		{map[string]string{"katadirect.io/iops": "0", "katadirect.io/readIops": "50"}, "readIops=50,bytesPerSecond=1048576"},
		{nil, "readIops=50,bytesPerSecond=1048576"},
	} {
		must(t, v.modify(tc.given))
		must(t, v.modify(tc.given))
		if got := h.recorded(target); got != tc.want {
			t.Errorf("after %v the record says %q", tc.given, got)
		}
		if got := machine.last(t).String(); got != tc.want {
			t.Errorf("after %v the machine was told %q", tc.given, got)
		}
	}
	h.restart()
	must(t, v.modify(map[string]string{"katadirect.io/readIops": "60"}))
	if got := machine.last(t).String(); got != "readIops=60,bytesPerSecond=1048576" {
		t.Errorf("a driver that was started anew told the machine %q", got)
	}
}

func TestLimitsOfACreatedVolumeAreThereWhenItIsPublished(t *testing.T) {
	h := newHost(t)
	r := createRequest("pvc", gib)
	r.MutableParameters = map[string]string{"katadirect.io/iops": "300", "katadirect.io/burstIops": "600"}
	made, err := h.CreateVolume(t.Context(), r)
	must(t, err)
	_, err = h.CreateVolume(t.Context(), r)
	must(t, err)
	v := volume{h: h, id: made.GetVolume().GetVolumeId(), context: made.GetVolume().GetVolumeContext(), cap: r.VolumeCapabilities[0]}
	h.restart()
	target := h.target("pod")
	must(t, v.stage())
	must(t, v.publish(target))
	if got := h.recorded(target); got != "iops=300,burstIops=600" {
		t.Errorf("the record says %q", got)
	}
	must(t, v.modify(map[string]string{"katadirect.io/iops": "0", "katadirect.io/burstIops": "0"}))
	record, err := h.store().Get(t.Context(), target)
	must(t, err)
	if text, there := record.Metadata[directvolume.MetadataLimits]; there {
		t.Errorf("without limits the record says %q", text)
	}
	must(t, v.publish(target))
}

func TestLimitsOfARawBlockVolumeAreInItsRecord(t *testing.T) {
	h := newHost(t)
	v, target := h.published("pvc", asBlock)
	must(t, v.modify(map[string]string{"katadirect.io/writeIops": "100"}))
	if got := h.recorded(target); got != "writeIops=100" {
		t.Errorf("the record says %q", got)
	}
	must(t, v.unpublish(target))
	must(t, v.publish(target))
	if got := h.recorded(target); got != "writeIops=100" {
		t.Errorf("published again, the record says %q", got)
	}
	must(t, v.unpublish(target))
	must(t, v.unstage())
}

func TestMutableParametersThatCannotBeAreRefusedAndChangeNothing(t *testing.T) {
	h := newHost(t)
	v, target := h.published("pvc")
	must(t, v.modify(map[string]string{"katadirect.io/iops": "200"}))
	for _, tc := range []struct {
		given map[string]string
		word  string
	}{
		{map[string]string{"katadirect.io/iopps": "100"}, "katadirect.io/iopps"},
		{map[string]string{"iops": "100"}, `"iops"`},
		{map[string]string{"katadirect.io/iops": "lots"}, "katadirect.io/iops"},
		{map[string]string{"katadirect.io/iops": "-5"}, "katadirect.io/iops"},
		{map[string]string{"katadirect.io/iops": "1"}, "10 to"},
		{map[string]string{"katadirect.io/iops": "300", "katadirect.io/bytesPerSecond": "1"}, "65536"},
		{map[string]string{"katadirect.io/readIops": "100"}, "set one side to 0"},
		{map[string]string{"katadirect.io/burstIops": "100"}, "less than"},
	} {
		refused(t, v.modify(tc.given), codes.InvalidArgument, tc.word)
		if got := h.recorded(target); got != "iops=200" {
			t.Errorf("after %v the record says %q", tc.given, got)
		}
		r := createRequest("other", gib)
		r.MutableParameters = tc.given
		if tc.word == "set one side to 0" {
			continue // all by itself it is right
		}
		_, err := h.CreateVolume(t.Context(), r)
		refused(t, err, codes.InvalidArgument)
	}
	if list, err := h.ListVolumes(t.Context(), &csi.ListVolumesRequest{}); err != nil || len(list.GetEntries()) != 1 {
		t.Errorf("a refused volume was made: %v, %v", list, err)
	}
}

func TestModifyOfWhatIsNotHere(t *testing.T) {
	h := newHost(t)
	foreign := strings.Replace(h.create("pvc").id, "kd-", "kd-f", 1)
	foreign = foreign[:len("kd-")+8] + foreign[len("kd-")+9:]
	good := map[string]string{"katadirect.io/iops": "200"}
	refused(t, volume{h: h}.modify(good), codes.InvalidArgument)
	refused(t, volume{h: h, id: "no-such-volume"}.modify(good), codes.NotFound)
	refused(t, volume{h: h, id: foreign}.modify(good), codes.FailedPrecondition, foreign, "Kubernetes")
	refused(t, volume{h: h, id: foreign}.modify(map[string]string{"x": "y"}), codes.InvalidArgument)
}

func TestAMachineThatDoesNotTakeLimitsIsToldOf(t *testing.T) {
	for _, tc := range []struct {
		answer int
		code   codes.Code
		words  []string
	}{
		{http.StatusNotFound, codes.FailedPrecondition, []string{"sandbox1", "kept with the volume"}}, // Kata's shim
		{http.StatusConflict, codes.Unavailable, []string{"sandbox1"}},
		{http.StatusInternalServerError, codes.Unavailable, nil},
	} {
		h := newHost(t)
		v, target := h.published("pvc")
		h.runShim("sandbox1", map[string]http.HandlerFunc{directvolume.PathThrottle: answerWith(tc.answer, "no")}).claim(target)
		refused(t, v.modify(map[string]string{"katadirect.io/iops": "200"}), tc.code, tc.words...)
		if got := h.recorded(target); got != "iops=200" {
			t.Errorf("the next machine would have %q", got)
		}
		err := v.modify(map[string]string{"katadirect.io/iops": "0"})
		if tc.answer == http.StatusNotFound { // a runtime that cannot limit has nothing to take back
			must(t, err)
		}
	}
}

func TestAMachineThatNoRecordSpeaksOfDoesNotHaveTheLimits(t *testing.T) {
	h := newHost(t)
	v := h.create("pvc")
	image, err := os.OpenFile(v.image(), os.O_RDWR, 0)
	must(t, err)
	defer image.Close()
	must(t, unix.FcntlFlock(image.Fd(), unix.F_OFD_SETLK, &unix.Flock_t{Type: unix.F_RDLCK, Start: 100, Len: 1})) // as QEMU locks
	refused(t, v.modify(map[string]string{"katadirect.io/iops": "200"}), codes.FailedPrecondition, v.id, "started again")
	must(t, image.Close())
	must(t, v.modify(map[string]string{"katadirect.io/iops": "200"}))
}

func TestLimitsAreRefusedWhereNothingWouldHoldThem(t *testing.T) {
	h := newHost(t)
	good := map[string]string{"katadirect.io/iops": "200"}
	r := createRequest("host", gib)
	r.Parameters, r.MutableParameters = map[string]string{mode.Key: "host"}, good
	_, err := h.CreateVolume(t.Context(), r)
	refused(t, err, codes.InvalidArgument, mode.Key, "virtual machines only")
	r.MutableParameters = nil
	made, err := h.CreateVolume(t.Context(), r)
	must(t, err)
	refused(t, volume{h: h, id: made.GetVolume().GetVolumeId()}.modify(good), codes.InvalidArgument, "virtual machines only")

	// One that has been in a machine, and is an ordinary pod's now.
	v := h.create("auto")
	must(t, v.modify(good))
	must(t, h.driver.checkup.staged.Put(t.Context(), stage.Volume{ID: v.id, StagingPath: h.staging(v.id), FSType: "ext4", OnHost: true}))
	refused(t, v.modify(map[string]string{"katadirect.io/iops": "300"}), codes.FailedPrecondition, v.id, "ordinary pod")
	if l := h.limits(v); l.IOPS != 200 {
		t.Errorf("%+v", l)
	}
	entry(t, v.health(), degraded, health.LimitsNotApplied, "iops=200")
	must(t, v.modify(map[string]string{"katadirect.io/iops": "0"}))
	if all := v.health(); len(all) != 0 {
		t.Errorf("without limits: %v", all)
	}
}

func TestLimitsThatCannotBeReadStopAPublishAndAreMadeAnewByAModify(t *testing.T) {
	h := newHost(t)
	v := h.create("pvc")
	must(t, os.WriteFile(h.path("pool", v.id, "limits.json"), []byte("{"), 0o600))
	must(t, v.stage())
	target := h.target("pod")
	refused(t, v.publish(target), codes.DataLoss, "limits.json", "modify the volume")
	must(t, v.modify(map[string]string{"katadirect.io/iops": "200"}))
	must(t, v.publish(target))
	if got := h.recorded(target); got != "iops=200" {
		t.Errorf("the record says %q", got)
	}
}
