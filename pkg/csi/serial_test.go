package csi

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc/codes"

	"github.com/katadirect/katadirect/pkg/directvolume"
)

// While one call for a volume is under way, every other that changes it is refused at once; those that only look, and
// those for other volumes, go on.
func TestASecondCallForAVolumeIsAbortedAtOnce(t *testing.T) {
	h := newHost(t)
	v, target := h.published("pvc")
	arrived, finish := make(chan struct{}), make(chan struct{})
	s := h.runShim("sandbox1", map[string]http.HandlerFunc{
		directvolume.PathResize: func(http.ResponseWriter, *http.Request) { close(arrived); <-finish },
		directvolume.PathStats:  guestUsage,
	})
	s.claim(target)
	expanded := make(chan error, 1)
	go func() {
		_, err := v.expand(context.Background(), target, 2*gib)
		expanded <- err
	}()
	<-arrived

	_, expandErr := v.expand(t.Context(), target, 2*gib)
	_, createErr := h.CreateVolume(t.Context(), createRequest("pvc", gib))
	_, controllerExpandErr := h.ControllerExpandVolume(t.Context(), &csi.ControllerExpandVolumeRequest{
		VolumeId: v.id, CapacityRange: &csi.CapacityRange{RequiredBytes: gib},
	})
	for name, err := range map[string]error{
		"expand": expandErr, "create": createErr, "controller expand": controllerExpandErr, "delete": v.delete(),
		"stage": v.stage(), "unstage": v.unstage(), "publish": v.publish(target), "unpublish": v.unpublish(target),
	} {
		t.Run(name, func(t *testing.T) { refused(t, err, codes.Aborted, v.id) })
	}
	if _, err := v.stats(target); err != nil {
		t.Errorf("stats: %v", err)
	}
	other, otherTarget := h.published("other")
	must(t, other.unpublish(otherTarget))

	close(finish)
	must(t, <-expanded)
	must(t, v.stage())
}

func TestLocksAreTakenTogetherOrNotAtAll(t *testing.T) {
	var l locks
	release, _ := l.try("volume", "path")
	if again, taken := l.try("other", "path"); again != nil || taken != "path" {
		t.Errorf("a held name was taken, %q", taken)
	}
	if other, taken := l.try("other", ""); other == nil {
		t.Errorf("a free name was refused for %q: the failed attempt had kept it", taken)
	}
	if empty, _ := l.try(""); empty == nil {
		t.Error("the empty name is held")
	}
	release()
	if again, taken := l.try("volume", "path"); again == nil {
		t.Errorf("%q is held after its release", taken)
	}
}

func TestManyVolumesLiveTheirLivesAtOnce(t *testing.T) {
	h := newHost(t)
	var group sync.WaitGroup
	for i := range 12 {
		target := h.target(fmt.Sprint("pod", i))
		group.Go(func() {
			for round := range 3 {
				if err := live(h, fmt.Sprintf("pvc-%d", i), target); err != nil {
					t.Errorf("volume %d, round %d: %v", i, round, err)
				}
			}
		})
	}
	group.Wait()
	h.stop() // it ends what is done beside the calls
	for _, folder := range []string{"pool", "records", filepath.Join("state", "staged")} {
		left, err := os.ReadDir(h.path(folder))
		must(t, err)
		for _, entry := range left {
			if entry.Name() != ".lock" {
				t.Errorf("%s is left in %s", entry.Name(), folder)
			}
		}
	}
}

// live takes a volume through everything and back.
func live(h *host, name, target string) error {
	ctx := context.Background()
	made, err := h.CreateVolume(ctx, createRequest(name, gib/8))
	if err != nil {
		return err
	}
	v := volume{h: h, id: made.GetVolume().GetVolumeId(), context: made.GetVolume().GetVolumeContext(), cap: capability()}
	steps := []func() error{
		v.stage,
		func() error { return v.publish(target) },
		func() error { _, err := v.expand(ctx, target, gib/4); return err },
		func() error { _, err := v.stats(target); return err },
		func() error { return v.unpublish(target) },
		v.unstage,
		v.delete,
	}
	for _, step := range steps {
		if err := step(); err != nil {
			return err
		}
	}
	return nil
}

func TestEndingLetsACallFinish(t *testing.T) {
	h := newHost(t)
	v, target := h.published("pvc")
	arrived, finish := make(chan struct{}), make(chan struct{})
	s := h.runShim("sandbox1", map[string]http.HandlerFunc{
		directvolume.PathResize: func(http.ResponseWriter, *http.Request) { close(arrived); <-finish },
	})
	s.claim(target)
	ctx, cancel := context.WithCancel(t.Context())
	listener, err := Listen(ctx, h.path("second.sock"))
	must(t, err)
	ended := make(chan error, 1)
	go func() { ended <- h.driver.Serve(ctx, listener) }()
	client := dial(t, h.path("second.sock"))
	expanded := make(chan error, 1)
	go func() {
		_, err := csi.NewNodeClient(client).NodeExpandVolume(context.Background(), &csi.NodeExpandVolumeRequest{
			VolumeId: v.id, VolumePath: target, CapacityRange: &csi.CapacityRange{RequiredBytes: 2 * gib},
		})
		expanded <- err
	}()
	<-arrived
	cancel()
	for refused := false; !refused; { // from then on the driver is ending
		conn, err := net.Dial("unix", h.path("second.sock"))
		if refused = err != nil; !refused {
			conn.Close()
		}
	}
	close(finish)
	must(t, <-expanded)
	must(t, <-ended)
}
