package sanity

import (
	"context"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"golang.org/x/sys/unix"

	"github.com/katadirect/katadirect/pkg/csi/loop"
)

// A raw block volume is a loop device and a mount of the host's, an inline one is made and deleted by calls of the node
// service. The driver is killed at random moments of many of their lives. Afterwards kubelet's last calls must find
// the way to the end, and nothing may be left in the pool, of loop devices or of mounts.
func TestKilledWithRawBlockAndInlineVolumesInHand(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	d := startDriver(t)
	t.Cleanup(func() { sweepHost(d.Dir) })
	for round := range crashRounds {
		ctx, cancel := context.WithCancel(t.Context())
		var group sync.WaitGroup
		var pods []pod
		var done [crashClients]int
		for client := range crashClients {
			p := newPod(t, d, fmt.Sprintf("round-%d-client-%d", round, client), client%2 == 0)
			pods = append(pods, p)
			group.Go(func() {
				for ctx.Err() == nil {
					if p.start(ctx) != nil || p.end(ctx) != nil {
						return
					}
					done[client]++
				}
			})
		}
		time.Sleep(time.Duration(random.IntN(int(400 * time.Millisecond))))
		d.Kill()
		cancel()
		group.Wait()
		t.Logf("round %d: lives lived %v", round, done)
		if err := d.Start(); err != nil {
			t.Fatal(err)
		}
		for _, p := range pods {
			// Some pods go on where they were, others end.
			if random.IntN(2) == 0 {
				if err := p.start(t.Context()); err != nil {
					t.Fatalf("%s, started again: %v", p.name, err)
				}
			}
			if err := p.end(t.Context()); err != nil {
				t.Fatalf("the end of %s: %v", p.name, err)
			}
		}
	}
	checkNothingLeft(t, d.Dir)
	if left := hostLeftovers(t, d.Dir); len(left) > 0 {
		t.Errorf("left on the host:\n%s", strings.Join(left, "\n"))
	}
}

// pod is a pod with one volume, raw block or inline.
type pod struct {
	d          driver
	name       string
	raw        bool
	target     string
	capability *csi.VolumeCapability
}

func newPod(t *testing.T, d driver, name string, raw bool) pod {
	t.Helper()
	// Kubelet's layout, and its notes.
	p := pod{d: d, name: name, raw: raw, target: filepath.Join(d.Dir, "kubelet/pods", name, "volumes/kubernetes.io~csi/v/mount")}
	if err := os.MkdirAll(filepath.Dir(p.target), 0o750); err != nil {
		t.Fatal(err)
	}
	p.capability = createRequest(name).GetVolumeCapabilities()[0]
	if raw {
		p.capability.AccessType = &csi.VolumeCapability_Block{Block: &csi.VolumeCapability_BlockVolume{}}
	}
	return p
}

func (p pod) staging() string { return filepath.Join(p.d.Dir, "kubelet/staging", p.name) }

// start makes the volume and publishes it.
func (p pod) start(ctx context.Context) error {
	node := csi.NewNodeClient(p.d.Conn)
	if !p.raw {
		_, err := node.NodePublishVolume(ctx, &csi.NodePublishVolumeRequest{
			VolumeId: "csi-" + p.name, TargetPath: p.target, VolumeCapability: p.capability,
			VolumeContext: map[string]string{"csi.storage.k8s.io/ephemeral": "true", "katadirect.io/size": "16Mi"},
		})
		return err
	}
	id, err := p.create(ctx)
	if err != nil {
		return err
	}
	if _, err := node.NodeStageVolume(ctx, &csi.NodeStageVolumeRequest{
		VolumeId: id, StagingTargetPath: p.staging(), VolumeCapability: p.capability,
	}); err != nil {
		return err
	}
	_, err = node.NodePublishVolume(ctx, &csi.NodePublishVolumeRequest{
		VolumeId: id, StagingTargetPath: p.staging(), TargetPath: p.target, VolumeCapability: p.capability,
	})
	return err
}

func (p pod) create(ctx context.Context) (string, error) {
	r := createRequest(p.name)
	r.VolumeCapabilities = []*csi.VolumeCapability{p.capability}
	made, err := csi.NewControllerClient(p.d.Conn).CreateVolume(ctx, r)
	return made.GetVolume().GetVolumeId(), err
}

// end does what the ends of the pod and its claim ask for, wherever they had got to.
func (p pod) end(ctx context.Context) error {
	node := csi.NewNodeClient(p.d.Conn)
	id := "csi-" + p.name
	if p.raw {
		var err error
		if id, err = p.create(ctx); err != nil { // only to know the id, as Kubernetes does
			return err
		}
	}
	if _, err := node.NodeUnpublishVolume(ctx, &csi.NodeUnpublishVolumeRequest{VolumeId: id, TargetPath: p.target}); err != nil || !p.raw {
		return err
	}
	if _, err := node.NodeUnstageVolume(ctx, &csi.NodeUnstageVolumeRequest{VolumeId: id, StagingTargetPath: p.staging()}); err != nil {
		return err
	}
	_, err := csi.NewControllerClient(p.d.Conn).DeleteVolume(ctx, &csi.DeleteVolumeRequest{VolumeId: id})
	return err
}

// hostLeftovers are the loop devices and mounts that have to do with the folder.
func hostLeftovers(t *testing.T, dir string) (left []string) {
	t.Helper()
	files, err := filepath.Glob("/sys/block/loop*/loop/backing_file")
	if err != nil {
		t.Fatal(err)
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		if image, err := os.ReadFile(file); err == nil && strings.Contains(string(image), dir) {
			left = append(left, file+": "+strings.TrimSpace(string(image)))
		}
	}
	for line := range strings.Lines(string(mounts)) {
		if strings.Contains(line, dir) {
			left = append(left, strings.TrimSpace(line))
		}
	}
	return left
}

// sweepHost takes away what a failed test has left.
func sweepHost(dir string) {
	_ = filepath.WalkDir(filepath.Join(dir, "kubelet"), func(path string, _ fs.DirEntry, err error) error {
		if err == nil && filepath.Base(path) == "mount" {
			_ = unix.Unmount(path, unix.UMOUNT_NOFOLLOW|unix.MNT_DETACH)
		}
		return nil
	})
	_ = loop.New(filepath.Join(dir, "pool"), nil).Sweep(context.Background(), func(string) bool { return false })
}
