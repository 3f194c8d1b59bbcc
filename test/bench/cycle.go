package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"

	"github.com/katadirect/katadirect/test/bench/figures"
)

const (
	cycles        = 600 // in one run: enough for beginning and end, when not all clients are busy, to count for little
	cyclesAtOnce  = 8
	cycleOthers   = 100 // volumes in use besides, about as many as a node has pods
	cycleTarget   = 3   // milliseconds
	cycleSpeedup  = 1.7 // of eight at once over one after the other
	recordContent = `{"volume-type":"directvol","device":"/pool/kd-00000000-00000000000000000000000000000000/disk.img","fstype":"ext4"}`
)

// measureCycle takes what kubelet asks of the node for each pod with a volume: stage, publish, unpublish, unstage. The
// floor is the least that a record costs which is there after a power cut: a folder with a small file in it, synced, and
// taken away again, synced.
func measureCycle(ctx context.Context, e *env, runs int) (_ []Figure, err error) {
	driver, err := startDriver(ctx, e)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, driver.stop()) }()
	volumes, err := driver.cycleVolumes(ctx, e, "cycle", cyclesAtOnce)
	if err != nil {
		return nil, err
	}
	// both takes turns: the floor, and a volume's cycle, for so many clients.
	both := func(clients int) (cycle, floor timing, err error) {
		floor, err = timesOf(ctx, clients, func(_ context.Context, c int) error { return bareRecord(e, c) })
		if err != nil {
			return cycle, floor, err
		}
		cycle, err = timesOf(ctx, clients, func(ctx context.Context, c int) error { return driver.cycle(ctx, c, volumes[c]) })
		return cycle, floor, err
	}
	var one, many, among samples
	var perSecond []float64
	for range runs {
		cycle, floor, err := both(1)
		if err != nil {
			return nil, err
		}
		one.add(cycle.medianMS, floor.medianMS)
		perSecond = append(perSecond, cycle.perSecond)
		if cycle, floor, err = both(cyclesAtOnce); err != nil {
			return nil, err
		}
		many.add(cycle.perSecond, floor.perSecond)
	}
	others, err := driver.cycleVolumes(ctx, e, "other", cycleOthers)
	if err != nil {
		return nil, err
	}
	for _, v := range others {
		if err := driver.begin(ctx, 0, v); err != nil {
			return nil, err
		}
	}
	for range runs {
		cycle, floor, err := both(1)
		if err != nil {
			return nil, err
		}
		among.add(cycle.medianMS, floor.medianMS)
	}
	sequential := figures.Median(perSecond)
	faster := target{fmt.Sprintf("value >= %g x %.0f", cycleSpeedup, sequential),
		func(value, _ float64) bool { return value >= cycleSpeedup*sequential }}
	return []Figure{
		one.figure("cycle", "stage, publish, unpublish and unstage of one volume, median; floor: a durable record written and removed",
			"ms", valueAtMost(cycleTarget), "none"),
		among.figure("cycle-among-100", "the same on a node where a hundred other volumes are in use", "ms", valueAtMost(cycleTarget), "none"),
		many.figure("cycle-8", "the same for eight volumes at once; the target is against one after the other", "/s", faster, "none"),
	}, nil
}

// timing is how long something took when it was done many times.
type timing struct{ medianMS, perSecond float64 }

// timesOf does something cycles times, shared by so many clients.
func timesOf(ctx context.Context, clients int, do func(ctx context.Context, client int) error) (timing, error) {
	took := make([]float64, cycles)
	perSecond, err := inParallel(ctx, clients, cycles, func(ctx context.Context, i int) error {
		start := time.Now()
		err := do(ctx, i%clients)
		took[i] = float64(time.Since(start).Microseconds()) / 1000
		return err
	})
	return timing{medianMS: figures.Median(took), perSecond: perSecond}, err
}

// bareRecord writes a record with its folder as nothing of ours would: durable, and gone again.
func bareRecord(e *env, client int) error {
	root := filepath.Join(e.dir, "bare-records")
	if err := os.MkdirAll(root, 0o700); err != nil {
		return err
	}
	folder, err := os.Open(root)
	if err != nil {
		return err
	}
	defer folder.Close()
	name := filepath.Join(root, fmt.Sprint(client))
	if err := os.Mkdir(name, 0o700); err != nil {
		return err
	}
	f, err := os.Create(filepath.Join(name, "mountInfo.json"))
	if err != nil {
		return err
	}
	_, err = f.WriteString(recordContent)
	if err := errors.Join(err, f.Sync(), f.Close(), folder.Sync()); err != nil {
		return err
	}
	return errors.Join(os.RemoveAll(name), folder.Sync())
}

// cycleVolume is a volume with its paths.
type cycleVolume struct{ id, staging, target string }

var cycleCapability = &csi.VolumeCapability{
	AccessType: &csi.VolumeCapability_Mount{Mount: &csi.VolumeCapability_MountVolume{FsType: "ext4"}},
	AccessMode: &csi.VolumeCapability_AccessMode{Mode: csi.VolumeCapability_AccessMode_SINGLE_NODE_SINGLE_WRITER},
}

// cycleVolumes makes volumes, and kubelet's folders for them.
func (d *driver) cycleVolumes(ctx context.Context, e *env, prefix string, count int) ([]cycleVolume, error) {
	var all []cycleVolume
	for i := range count {
		name := fmt.Sprintf("%s-%d", prefix, i)
		made, err := csi.NewControllerClient(d.conns[0]).CreateVolume(ctx, &csi.CreateVolumeRequest{
			Name: name, CapacityRange: &csi.CapacityRange{RequiredBytes: 16 << 20}, VolumeCapabilities: []*csi.VolumeCapability{cycleCapability},
		})
		if err != nil {
			return nil, fmt.Errorf("CreateVolume: %w", err)
		}
		v := cycleVolume{made.GetVolume().GetVolumeId(), filepath.Join(e.dir, "staging", name), filepath.Join(e.dir, "pods", name, "mount")}
		if err := os.MkdirAll(filepath.Dir(v.target), 0o750); err != nil {
			return nil, err
		}
		all = append(all, v)
	}
	return all, nil
}

// cycle is a pod's coming and going, as kubelet leads it.
func (d *driver) cycle(ctx context.Context, client int, v cycleVolume) error {
	if err := d.begin(ctx, client, v); err != nil {
		return err
	}
	return d.end(ctx, client, v)
}

// begin is what kubelet asks for before a pod's containers start.
func (d *driver) begin(ctx context.Context, client int, v cycleVolume) error {
	node := csi.NewNodeClient(d.conns[client])
	if _, err := node.NodeStageVolume(ctx, &csi.NodeStageVolumeRequest{
		VolumeId: v.id, StagingTargetPath: v.staging, VolumeCapability: cycleCapability,
	}); err != nil {
		return fmt.Errorf("NodeStageVolume: %w", err)
	}
	if _, err := node.NodePublishVolume(ctx, &csi.NodePublishVolumeRequest{
		VolumeId: v.id, StagingTargetPath: v.staging, TargetPath: v.target, VolumeCapability: cycleCapability,
	}); err != nil {
		return fmt.Errorf("NodePublishVolume: %w", err)
	}
	return nil
}

// end is what it asks for when the pod is gone.
func (d *driver) end(ctx context.Context, client int, v cycleVolume) error {
	node := csi.NewNodeClient(d.conns[client])
	if _, err := node.NodeUnpublishVolume(ctx, &csi.NodeUnpublishVolumeRequest{VolumeId: v.id, TargetPath: v.target}); err != nil {
		return fmt.Errorf("NodeUnpublishVolume: %w", err)
	}
	if _, err := node.NodeUnstageVolume(ctx, &csi.NodeUnstageVolumeRequest{VolumeId: v.id, StagingTargetPath: v.staging}); err != nil {
		return fmt.Errorf("NodeUnstageVolume: %w", err)
	}
	return nil
}
