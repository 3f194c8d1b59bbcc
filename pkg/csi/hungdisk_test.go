package csi

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"

	"github.com/katadirect/katadirect/pkg/csi/health"
	"github.com/katadirect/katadirect/pkg/csi/telemetry"
)

// hang mounts a file system at a volume's folder that answers nobody until the test is over: the server behind it never
// says a word.
func (v volume) hang() {
	t, dir := v.h.t, filepath.Dir(v.image())
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
