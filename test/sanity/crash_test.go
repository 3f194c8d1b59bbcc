package sanity

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
)

const (
	crashRounds  = 8
	crashClients = 8
)

// Kata's driver left a state file of 0 bytes behind when it was killed during creates, and did not start again. Ours
// is killed at a random moment of many creates, publishes and deletes, again and again. After each start everything that was
// acknowledged must be so, whatever was not must be repeatable, and there must be no garbage.
func TestFaultKilledDuringCreates(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	d := startDriver(t)
	alive := map[string]string{} // name to id of every volume that must be there
	for round := range crashRounds {
		got := hammer(d, round, 1+random.IntN(150))
		for name, id := range got.created {
			alive[name] = id
		}
		if err := d.Start(); err != nil {
			t.Fatal(err)
		}
		checkPool(t, d, alive, got)
	}
	for name, id := range alive {
		if err := d.unuse(t.Context(), id); err != nil {
			t.Errorf("end of %s: %v", name, err)
		}
	}
	checkNothingLeft(t, d.Dir)
	if left, err := os.ReadDir(filepath.Join(d.Dir, "pods")); err != nil || len(left) > 0 {
		t.Errorf("target paths left: %v, %v", left, err)
	}
}

// outcome is what clients know after the driver was killed.
type outcome struct {
	mu       sync.Mutex
	created  map[string]string // acknowledged, and no delete was tried; guarded by mu
	deleted  []string          // ids whose delete was acknowledged; guarded by mu
	unknown  []string          // names of creates without an answer; guarded by mu
	doubtful []string          // ids of deletes without an answer; guarded by mu
	answers  int               // guarded by mu
}

// hammer makes and deletes volumes from many clients until the driver has answered so many calls, and kills it then.
func hammer(d driver, round, answers int) *outcome {
	o := &outcome{created: map[string]string{}}
	controller := csi.NewControllerClient(d.Conn)
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	var group sync.WaitGroup
	kill := sync.OnceFunc(func() { d.Kill(); cancel() })
	answered := func(note func()) {
		o.mu.Lock()
		note()
		o.answers++
		enough := o.answers >= answers
		o.mu.Unlock()
		if enough {
			kill()
		}
	}
	missed := func(note func()) {
		o.mu.Lock()
		defer o.mu.Unlock()
		note()
	}
	for client := range crashClients {
		group.Go(func() {
			for i := 0; ctx.Err() == nil; i++ {
				name := fmt.Sprintf("round-%d-client-%d-%d", round, client, i)
				made, err := controller.CreateVolume(ctx, createRequest(name))
				if err != nil {
					missed(func() { o.unknown = append(o.unknown, name) })
					return
				}
				id := made.GetVolume().GetVolumeId()
				if i%3 != 0 {
					answered(func() { o.created[name] = id })
					continue
				}
				if err := d.use(ctx, id, d.unuse); err != nil {
					missed(func() { o.doubtful = append(o.doubtful, id) })
					return
				}
				answered(func() { o.deleted = append(o.deleted, id) })
			}
		})
	}
	group.Wait()
	kill()
	return o
}

// checkPool compares what is there with what the clients know, and brings what they do not know to an end.
func checkPool(t *testing.T, d driver, alive map[string]string, o *outcome) {
	t.Helper()
	controller := csi.NewControllerClient(d.Conn)
	t.Logf("%d creates and %d deletes acknowledged, %d and %d not", len(o.created), len(o.deleted), len(o.unknown), len(o.doubtful))
	for _, name := range o.unknown { // kubelet and the sidecars repeat
		made, err := controller.CreateVolume(t.Context(), createRequest(name))
		if err != nil {
			t.Errorf("create of %s, repeated: %v", name, err)
			continue
		}
		alive[name] = made.GetVolume().GetVolumeId()
	}
	for _, id := range o.doubtful {
		if err := d.unuse(t.Context(), id); err != nil {
			t.Errorf("end of %s, repeated: %v", id, err)
		}
	}
	there := map[string]bool{}
	entries, err := os.ReadDir(d.Pool())
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range withoutLock(entries) {
		there[name] = true
		checkWhole(t, filepath.Join(d.Pool(), name))
	}
	for name, id := range alive {
		if !there[id] {
			t.Errorf("%s was acknowledged and is gone", name)
		}
		again, err := controller.CreateVolume(t.Context(), createRequest(name))
		if err != nil || again.GetVolume().GetVolumeId() != id {
			t.Errorf("create of %s again: %v, %v; want %s", name, again, err, id)
		}
		delete(there, id)
	}
	for id := range there {
		t.Errorf("%s is in the pool and nobody knows it", id)
	}
}

// checkWhole checks that a volume's folder holds what it should, and nothing else.
func checkWhole(t *testing.T, folder string) {
	t.Helper()
	files, err := os.ReadDir(folder)
	if err != nil || len(files) != 2 {
		t.Errorf("%s holds %v, %v", folder, files, err)
	}
	if info, err := os.Stat(filepath.Join(folder, "disk.img")); err != nil || info.Size() != volumeBytes {
		t.Errorf("the image in %s: %v, %v", folder, info, err)
	}
	if info, err := os.Stat(filepath.Join(folder, "volume.json")); err != nil || info.Size() == 0 {
		t.Errorf("volume.json in %s: %v, %v", folder, info, err)
	}
}

// target is the path at which a test publishes a volume; it stands in the folder that kubelet would have made.
func (d driver) target(id string) string { return filepath.Join(d.Dir, "pods", id) }

// use stages and publishes a volume as for a pod, and then does what the pod's end asks for.
func (d driver) use(ctx context.Context, id string, end func(context.Context, string) error) error {
	node := csi.NewNodeClient(d.Conn)
	staging := filepath.Join(d.Dir, "staging", id)
	capability := createRequest("").GetVolumeCapabilities()[0]
	if err := os.MkdirAll(filepath.Dir(d.target(id)), 0o750); err != nil {
		return err
	}
	if _, err := node.NodeStageVolume(ctx, &csi.NodeStageVolumeRequest{
		VolumeId: id, StagingTargetPath: staging, VolumeCapability: capability,
	}); err != nil {
		return err
	}
	if _, err := node.NodePublishVolume(ctx, &csi.NodePublishVolumeRequest{
		VolumeId: id, StagingTargetPath: staging, TargetPath: d.target(id), VolumeCapability: capability,
	}); err != nil {
		return err
	}
	return end(ctx, id)
}

// unuse takes a volume from its pod and its node, wherever it got to, and deletes it.
func (d driver) unuse(ctx context.Context, id string) error {
	node := csi.NewNodeClient(d.Conn)
	if _, err := node.NodeUnpublishVolume(ctx, &csi.NodeUnpublishVolumeRequest{VolumeId: id, TargetPath: d.target(id)}); err != nil {
		return err
	}
	if _, err := node.NodeUnstageVolume(ctx, &csi.NodeUnstageVolumeRequest{
		VolumeId: id, StagingTargetPath: filepath.Join(d.Dir, "staging", id),
	}); err != nil {
		return err
	}
	_, err := csi.NewControllerClient(d.Conn).DeleteVolume(ctx, &csi.DeleteVolumeRequest{VolumeId: id})
	return err
}
