package csi

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"

	"github.com/katadirect/katadirect/pkg/csi/health"
	"github.com/katadirect/katadirect/pkg/csi/telemetry"
)

// hang mounts a file system at a volume's folder that answers nobody until the test is over: the server behind it never
// says a word.
func (v volume) hang() {
	v.h.t.Helper()
	v.hangAt(filepath.Dir(v.image()))
}

// hangAt is hang for another folder of the volume's.
func (v volume) hangAt(dir string) {
	t := v.h.t
	t.Helper()
	server, err := os.OpenFile("/dev/fuse", os.O_RDWR, 0)
	must(t, err)
	options := fmt.Sprintf("fd=%d,rootmode=40000,user_id=0,group_id=0", server.Fd())
	must(t, unix.Mount("silent", dir, "fuse", unix.MS_NOSUID|unix.MS_NODEV, options))
	t.Cleanup(func() {
		must(t, server.Close()) // who waits gets an error, and must be gone before the pool is closed
		must(t, unix.Unmount(dir, unix.MNT_DETACH))
		for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); time.Sleep(time.Millisecond) {
			_, looking := v.h.driver.checkup.looking.Load(v.id)
			_, reading := v.h.driver.checkup.reading.Load(v.id)
			if !looking && !reading {
				return
			}
		}
		t.Error("somebody still looks at the volume")
	})
}

func TestHealthIsAnsweredThoughAVolumesDiskHangs(t *testing.T) {
	h := newHost(t)
	v, well := h.create("hung"), h.create("well")
	v.hang()
	ctx, cancel := context.WithTimeout(t.Context(), 10*lookPatience)
	defer cancel()
	for range 2 {
		node, err := h.NodeGetVolumeHealth(ctx, &csi.NodeGetVolumeHealthRequest{VolumeId: v.id})
		must(t, err)
		entry(t, node.GetVolumeHealth().GetHealthStatuses(), inaccessible, health.PoolUnreachable, h.path("pool"))
	}
	list, err := h.ControllerListVolumeHealth(ctx, &csi.ControllerListVolumeHealthRequest{})
	must(t, err)
	if all := list.GetEntries(); len(all) != 1 || all[0].GetVolumeId() != v.id {
		t.Errorf("ill are %v", all)
	}
	if all := well.health(); len(all) != 0 {
		t.Errorf("the other volume: %v", all)
	}
}

// TestAMountOfTheHostThatHangsIsAnsweredForWithWhatIsKnown goes on in the mount for as long as the test lasts, so every answer
// but what was known before would come too late.
func TestAMountOfTheHostThatHangsIsAnsweredForWithWhatIsKnown(t *testing.T) {
	h, _ := newModesHost(t)
	known, unknown := h.createIn("known", inMode("host")), h.createIn("unknown", inMode("host"))
	for _, v := range []volume{known, unknown} {
		must(t, v.stage())
		must(t, v.publishFor("plain", h.target(v.id)))
	}
	before, err := known.stats(h.target(known.id))
	must(t, err)
	known.hangAt(h.staging(known.id))
	unknown.hangAt(h.staging(unknown.id))
	// The first look may itself be so late on a busy host that nobody waits for its end.
	eventually(t, "known stats are told", func() bool { _, err := known.stats(h.target(known.id)); return err == nil })
	for range 2 {
		usage, err := known.stats(h.target(known.id))
		must(t, err)
		if len(usage) != 2 || !proto.Equal(usage[0], before[0]) || !proto.Equal(usage[1], before[1]) {
			t.Errorf("got %v, and known is %v", usage, before)
		}
		entry(t, known.health(), inaccessible, hostSilent, "not answered", "what is known is", "old")
		_, err = unknown.stats(h.target(unknown.id))
		refused(t, err, codes.Unavailable, unknown.id, "not answered")
		entry(t, unknown.health(), inaccessible, hostSilent, "nothing is known")
	}
	state, err := h.driver.State(t.Context())
	must(t, err)
	for _, of := range state.Volumes {
		switch g := of.Guest; {
		case of.ID == unknown.id:
			if g != nil {
				t.Errorf("nobody has seen anything of it, and there is %+v", g)
			}
		case g == nil || g.UsedBytes != before[0].GetUsed() || g.Inodes != before[1].GetTotal() || !g.Abnormal || g.Silent ||
			!slices.Equal(g.Problems, []string{hostSilent}) || g.When.IsZero():
			t.Errorf("the state is %+v", g)
		}
	}
}

func TestStatsAreRefusedInTimeThoughAVolumesDiskHangs(t *testing.T) {
	h := newHost(t)
	v, target := h.published("hung")
	v.hang()
	ctx, cancel := context.WithTimeout(t.Context(), 10*lookPatience)
	defer cancel()
	for range 2 {
		_, err := h.NodeGetVolumeStats(ctx, &csi.NodeGetVolumeStatsRequest{VolumeId: v.id, VolumePath: target})
		refused(t, err, codes.Unavailable, v.id, "not answered")
	}
}

// A driver that is ended because its disk hangs is started again, and hangs.
func TestADriverWhosePoolHangsIsNotReadyAndLives(t *testing.T) {
	h := newHost(t)
	h.driver.checkup.probing <- struct{}{} // as somebody does who hangs on the disk
	ctx, cancel := context.WithTimeout(t.Context(), 10*poolPatience)
	defer cancel()
	_, err := h.Probe(ctx, &csi.ProbeRequest{})
	refused(t, err, codes.FailedPrecondition, "not answered")
	checks, err := telemetry.NewHealth(h.path("csi.sock"))
	must(t, err)
	defer checks.Close()
	if checks.Live(ctx) != nil || checks.Ready(ctx) == nil {
		t.Errorf("live: %v, ready: %v", checks.Live(ctx), checks.Ready(ctx))
	}
	<-h.driver.checkup.probing
	must(t, checks.Ready(ctx))
}
