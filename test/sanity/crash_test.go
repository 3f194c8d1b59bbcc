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
// is killed at a random moment of many creates and deletes, again and again. After each start everything that was
// acknowledged must be so, whatever was not must be repeatable, and there must be no garbage.
func TestFaultKilledDuringCreates(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	d := startDriver(t, t.TempDir(), "info")
	alive := map[string]string{} // name to id of every volume that must be there
	for round := range crashRounds {
		got := hammer(d, round, 1+random.IntN(150))
		for name, id := range got.created {
			alive[name] = id
		}
		d.start()
		checkPool(t, d, alive, got)
	}
	for name := range alive {
		deleteVolume(t, d, alive[name])
	}
	if left, err := os.ReadDir(d.pool()); err != nil || len(withoutLock(left)) > 0 {
		t.Errorf("the pool holds %v, %v after everything was deleted", left, err)
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
func hammer(d *driver, round, answers int) *outcome {
	o := &outcome{created: map[string]string{}}
	controller := csi.NewControllerClient(d.conn)
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	var group sync.WaitGroup
	kill := sync.OnceFunc(func() { d.kill(); cancel() })
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
				if _, err := controller.DeleteVolume(ctx, &csi.DeleteVolumeRequest{VolumeId: id}); err != nil {
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
func checkPool(t *testing.T, d *driver, alive map[string]string, o *outcome) {
	t.Helper()
	controller := csi.NewControllerClient(d.conn)
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
		deleteVolume(t, d, id)
	}
	there := map[string]bool{}
	entries, err := os.ReadDir(d.pool())
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range withoutLock(entries) {
		there[name] = true
		checkWhole(t, filepath.Join(d.pool(), name))
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

func deleteVolume(t *testing.T, d *driver, id string) {
	t.Helper()
	if _, err := csi.NewControllerClient(d.conn).DeleteVolume(t.Context(), &csi.DeleteVolumeRequest{VolumeId: id}); err != nil {
		t.Errorf("delete %s: %v", id, err)
	}
}
