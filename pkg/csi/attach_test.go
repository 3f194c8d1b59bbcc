package csi

import (
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

func (v volume) attach(node string, readOnly bool) error {
	_, err := v.h.ControllerPublishVolume(v.h.t.Context(), &csi.ControllerPublishVolumeRequest{
		VolumeId: v.id, NodeId: node, VolumeCapability: v.cap, Readonly: readOnly, VolumeContext: v.context,
	})
	return err
}

func (v volume) detach(node string) error {
	_, err := v.h.ControllerUnpublishVolume(v.h.t.Context(), &csi.ControllerUnpublishVolumeRequest{VolumeId: v.id, NodeId: node})
	return err
}

func (v volume) nodes() []string {
	v.h.t.Helper()
	r, err := v.h.ControllerGetVolume(v.h.t.Context(), &csi.ControllerGetVolumeRequest{VolumeId: v.id})
	must(v.h.t, err)
	return r.GetStatus().GetPublishedNodeIds()
}

func TestAttachingIsRememberedUntilItIsTakenBack(t *testing.T) {
	h := newHost(t)
	v, other := h.create("pvc"), h.create("read-only")
	must(t, v.attach("node-1", false))
	must(t, other.attach("node-1", true))
	for range 2 { // the second time after a restart
		must(t, v.attach("node-1", false))
		refused(t, v.attach("node-1", true), codes.AlreadyExists, "read-only")
		must(t, other.attach("node-1", true))
		refused(t, other.attach("node-1", false), codes.AlreadyExists, "read-only")
		refused(t, v.delete(), codes.FailedPrecondition, "attached", "node-1")
		if nodes := v.nodes(); !slices.Equal(nodes, []string{"node-1"}) {
			t.Errorf("published nodes are %v", nodes)
		}
		h.restart()
	}
	must(t, v.detach("node-1"))
	must(t, v.detach("node-1"))
	must(t, other.detach("")) // from all nodes
	h.restart()
	if nodes := append(v.nodes(), other.nodes()...); len(nodes) != 0 {
		t.Errorf("published nodes after detaching are %v", nodes)
	}
	must(t, other.attach("node-1", false))
	must(t, other.detach("node-1"))
	must(t, v.delete())
	must(t, other.delete())
	must(t, v.detach("node-1")) // of a volume that is gone
}

func TestAVolumeInUseStaysAttached(t *testing.T) {
	h := newHost(t)
	v, target := h.create("pvc"), h.target("pod")
	must(t, v.attach("node-1", false))
	must(t, v.stage())
	refused(t, v.detach("node-1"), codes.FailedPrecondition, "staged")
	must(t, v.publish(target))
	refused(t, v.detach(""), codes.FailedPrecondition, "staged")
	must(t, v.unpublish(target))
	must(t, v.unstage())
	must(t, v.detach("node-1"))
}

func TestAttachRefusesWhatCannotBe(t *testing.T) {
	h := newHost(t)
	v := h.create("pvc")
	unknown := volume{h: h, id: h.driver.pool.ID("never made"), cap: v.cap}
	refused(t, v.attach("", false), codes.InvalidArgument, "node id")
	refused(t, v.attach("node-2", false), codes.NotFound, "node-2")
	refused(t, unknown.attach("node-1", false), codes.NotFound, unknown.id)
	refused(t, volume{h: h, cap: v.cap}.attach("node-1", false), codes.InvalidArgument)
	refused(t, volume{h: h, id: "../victim", cap: v.cap}.attach("node-1", false), codes.InvalidArgument)
	refused(t, volume{h: h, id: v.id}.attach("node-1", false), codes.InvalidArgument, "capability")
	refused(t, volume{h: h, id: "../victim"}.detach("node-1"), codes.InvalidArgument)
	must(t, unknown.detach("node-1"))
	must(t, v.attach("node-1", false))
	must(t, v.detach("node-2")) // where it is not
	if nodes := v.nodes(); len(nodes) != 1 {
		t.Errorf("detached from another node, it is on %v", nodes)
	}
}

// As many as the node says it takes are attached, and not one more, however many ask at once.
func TestNoMoreVolumesAreAttachedThanTheNodeTakes(t *testing.T) {
	h := newHost(t)
	h.stop()
	h.maxVolumes = 5
	h.start()
	info, err := h.NodeGetInfo(t.Context(), &csi.NodeGetInfoRequest{})
	if err != nil || info.GetMaxVolumesPerNode() != 5 {
		t.Fatalf("%v, %v", info, err)
	}
	var volumes []volume
	for i := range 12 {
		volumes = append(volumes, h.create(fmt.Sprint("pvc-", i)))
	}
	var attached atomic.Int32
	var all sync.WaitGroup
	for _, v := range volumes {
		all.Go(func() {
			switch err := v.attach("node-1", false); status.Code(err) {
			case codes.OK:
				attached.Add(1)
			case codes.ResourceExhausted:
			default:
				t.Error(err)
			}
		})
	}
	all.Wait()
	if n := attached.Load(); n != 5 {
		t.Errorf("%d volumes are attached; the node takes 5", n)
	}
	h.restart()
	for _, v := range volumes {
		if len(v.nodes()) == 1 {
			must(t, v.attach("node-1", false)) // once more is not one more
			must(t, v.detach("node-1"))
			break
		}
	}
	taken := 0
	for _, v := range volumes {
		if len(v.nodes()) == 0 && v.attach("node-1", false) == nil {
			taken++
		}
	}
	if taken != 1 {
		t.Errorf("%d volumes took the place of the one that was detached", taken)
	}
}

func TestTheDefaultLimitFollowsTheMemory(t *testing.T) {
	for memory, want := range map[int64]int{0: 30, 1 << 30: 240, 24 << 30: 5760} {
		if got := defaultMaxVolumes(memory); got != want {
			t.Errorf("with %d bytes of memory %d volumes, want %d", memory, got, want)
		}
	}
	if memory, err := memoryBytes(); err != nil || memory < 1<<28 {
		t.Errorf("this host has %d bytes of memory, %v", memory, err)
	}
	if _, err := chooseMaxVolumes(-1); err == nil {
		t.Error("a negative limit passes")
	}
}
