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

// measureResize grows the volume of a running pod: containerd, the CSI driver and the shim are the real ones. Each run
// has a pod of its own, and the floor a machine of its own, for a volume is rarely grown twice in the life of a pod.
func measureResize(ctx context.Context, e *env, runs int) (_ []Figure, err error) {
	node, err := kubelet.Open(ctx, kubelet.Options{BinDir: e.binDir, Image: e.image})
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, closeNode(ctx, node)) }()
	var s samples
	for i := range runs {
		floor, err := growBare(ctx, e, i)
		if err != nil {
			return nil, err
		}
		value, err := growOurs(ctx, node, i)
		if err != nil {
			return nil, err
		}
		s.add(milliseconds(value), milliseconds(floor))
	}
	return []Figure{s.figure("resize", "NodeExpandVolume call to larger df in the guest, ext4, 1 to 2 GiB",
		"ms", ratioAtMost(2), e.accel)}, nil
}

func growBare(ctx context.Context, e *env, i int) (time.Duration, error) {
	image, err := makeExt4(ctx, e, fmt.Sprintf("grow%d", i))
	if err != nil {
		return 0, err
	}
	m, _, err := startBare(ctx, e, true)
	if err != nil {
		return 0, err
	}
	defer m.stop()
	if err := m.plug("bench", image); err != nil {
		return 0, err
	}
	if _, err := m.ask("mount /bench"); err != nil {
		return 0, err
	}
	if err := rest(ctx); err != nil {
		return 0, err
	}
	start := time.Now()
	if _, err := m.command("block_resize", map[string]any{"node-name": "drive-bench", "size": grownBytes}); err != nil {
		return 0, err
	}
	if _, err := m.ask(fmt.Sprintf("grow /bench %d", int64(grownBytes))); err != nil {
		return 0, err
	}
	size, err := m.ask("size /bench")
	took := time.Since(start)
	if err == nil && size <= imageBytes {
		err = fmt.Errorf("the bare guest's file system has still %d bytes", size)
	}
	return took, err
}

// growOurs runs a pod with a volume, grows it, and takes both away.
func growOurs(ctx context.Context, node *kubelet.Node, i int) (took time.Duration, err error) {
	uid, volume := uuid.NewString(), node.Volume("pvc-"+uuid.NewString(), imageBytes, "ext4")
	if err := volume.Create(ctx); err != nil {
		return 0, err
	}
	if err := volume.Stage(ctx); err != nil {
		return 0, err
	}
	if err := volume.Publish(ctx, uid); err != nil {
		return 0, err
	}
	pod, err := node.Lab.RunPod(ctx, lab.PodSpec{Name: fmt.Sprintf("resize%d", i), UID: uid, Handler: kubelet.Handler})
	if err != nil {
		return 0, err
	}
	_, err = pod.Run(ctx, lab.ContainerSpec{
		Name: "app", Command: []string{"sleep", "1000"},
		Mounts: []lab.Mount{{HostPath: volume.TargetPath(uid), ContainerPath: "/data"}},
	})
	if err != nil {
		return 0, err
	}
	if err := rest(ctx); err != nil {
		return 0, err
	}
	if took, err = grow(ctx, volume, uid); err != nil {
		return 0, err
	}
	if err := pod.Remove(ctx); err != nil {
		return 0, err
	}
	return took, release(ctx, volume, uid)
}

// grow expands the volume and looks at it through the driver, which asks the guest, until it is larger. It is so at
// the first look.
func grow(ctx context.Context, volume *kubelet.Volume, podUID string) (time.Duration, error) {
	before, err := volume.Stats(ctx, podUID)
	if err != nil {
		return 0, err
	}
	start := time.Now()
	if err := volume.Expand(ctx, podUID, grownBytes); err != nil {
		return 0, err
	}
	for {
		after, err := volume.Stats(ctx, podUID)
		if err != nil {
			return 0, err
		}
		if after.Total > before.Total {
			return time.Since(start), nil
		}
	}
}

// rest lets a guest finish what starting has left it to do: volumes are grown in pods that have run for a while, and
// on one emulated processor the end of a container's start would be measured instead.
func rest(ctx context.Context) error {
	select {
	case <-time.After(restTime):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

const restTime = 2 * time.Second

// release takes the volume away from a pod that is gone, and deletes it.
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
