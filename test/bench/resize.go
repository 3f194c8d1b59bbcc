package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/google/uuid"

	"github.com/katadirect/katadirect/internal/kubelet"
	"github.com/katadirect/katadirect/internal/lab"
)

const grownBytes = 2 << 30

// measureResize grows volumes of a running pod: containerd, the CSI driver and the shim are the real ones.
func measureResize(ctx context.Context, e *env, runs int) (_ []Figure, err error) {
	bare, _, err := startBare(ctx, e, true)
	if err != nil {
		return nil, err
	}
	defer bare.stop()
	node, err := kubelet.Open(ctx, kubelet.Options{BinDir: e.binDir, Image: e.image})
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, closeNode(ctx, node)) }()
	pod, err := node.Lab.RunPod(ctx, lab.PodSpec{Name: "bench", Handler: kubelet.Handler})
	if err != nil {
		return nil, err
	}
	var s samples
	for i := range runs {
		floor, err := growBare(ctx, e, bare, i)
		if err != nil {
			return nil, err
		}
		value, err := growOurs(ctx, node, pod, i)
		if err != nil {
			return nil, err
		}
		s.add(milliseconds(value), milliseconds(floor))
	}
	return []Figure{s.figure("resize", "NodeExpandVolume call to larger df in the guest, ext4, 1 to 2 GiB",
		"ms", ratioAtMost(2), e.accel)}, nil
}

func growBare(ctx context.Context, e *env, m *bareMachine, i int) (time.Duration, error) {
	id := fmt.Sprintf("grow%d", i)
	image, err := makeExt4(ctx, e, id)
	if err != nil {
		return 0, err
	}
	if err := m.plug(id, image); err != nil {
		return 0, err
	}
	if _, err := m.ask("mount /" + id); err != nil {
		return 0, err
	}
	start := time.Now()
	if _, err := m.command("block_resize", map[string]any{"node-name": "drive-" + id, "size": grownBytes}); err != nil {
		return 0, err
	}
	if _, err := m.ask(fmt.Sprintf("grow /%s %d", id, int64(grownBytes))); err != nil {
		return 0, err
	}
	size, err := m.ask("size /" + id)
	took := time.Since(start)
	if err != nil {
		return 0, err
	}
	if size <= imageBytes {
		return 0, fmt.Errorf("the bare guest's file system has still %d bytes", size)
	}
	if _, err := m.ask("umount /" + id); err != nil {
		return 0, err
	}
	return took, m.unplug(id)
}

// growOurs gives the pod one more container with a volume, grows it, and looks at it through the driver until it is
// larger, which it is at the first look.
func growOurs(ctx context.Context, node *kubelet.Node, pod *lab.Pod, i int) (took time.Duration, err error) {
	volume := node.Volume("pvc-"+uuid.NewString(), imageBytes, "ext4")
	steps := []func() error{
		func() error { return volume.Create(ctx) },
		func() error { return volume.Stage(ctx) },
		func() error { return volume.Publish(ctx, pod.UID) },
	}
	for _, step := range steps {
		if err := step(); err != nil {
			return 0, err
		}
	}
	container, err := pod.Run(ctx, lab.ContainerSpec{
		Name: fmt.Sprintf("app%d", i), Command: []string{"sleep", "1000"},
		Mounts: []lab.Mount{{HostPath: volume.TargetPath(pod.UID), ContainerPath: "/data"}},
	})
	if err != nil {
		return 0, err
	}
	before, err := volume.Stats(ctx, pod.UID)
	if err != nil {
		return 0, err
	}
	start := time.Now()
	if err := volume.Expand(ctx, pod.UID, grownBytes); err != nil {
		return 0, err
	}
	for {
		after, err := volume.Stats(ctx, pod.UID)
		if err != nil {
			return 0, err
		}
		if after.Total > before.Total {
			break
		}
	}
	took = time.Since(start)
	return took, errors.Join(container.Remove(ctx), release(ctx, volume, pod.UID))
}

// release takes the volume away from the pod, which needs it no more, and deletes it.
func release(ctx context.Context, v *kubelet.Volume, podUID string) error {
	if err := v.Unpublish(ctx, podUID); err != nil {
		return err
	}
	if err := v.Unstage(ctx); err != nil {
		return err
	}
	return v.Delete(ctx)
}

// closeNode ends containerd, the driver and all pods, also after an interruption. The lab's end is the end of
// everything in it, so what is left over in it is no concern of a benchmark.
func closeNode(ctx context.Context, node *kubelet.Node) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
	defer cancel()
	_, err := node.Close(ctx)
	return err
}

// makeSparse makes a file of the size that takes no space.
func makeSparse(path string, sizeBytes int64) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	return errors.Join(f.Truncate(sizeBytes), f.Close())
}
