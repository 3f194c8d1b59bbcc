package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"time"

	"github.com/google/uuid"
	"golang.org/x/sys/unix"

	"github.com/katadirect/katadirect/internal/kubelet"
	"github.com/katadirect/katadirect/internal/lab"
)

const (
	snapshotBytes = 10 << 30 // of the volume
	heldBytes     = 1 << 30  // that it holds
)

// measureSnapshot takes snapshots of a volume in use, in a pool on a file system with reflinks. The bare machine's disk
// is on the same file system and holds the same.
func measureSnapshot(ctx context.Context, e *env, runs int) (_ []Figure, err error) {
	dir, unmount, err := mountReflinking(ctx, e)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, unmount()) }()
	prepared := filepath.Join(dir, "prepared.img")
	if err := fillExt4(ctx, e, prepared); err != nil {
		return nil, err
	}
	floor, err := startFreezing(ctx, e, dir, prepared)
	if err != nil {
		return nil, err
	}
	defer floor.stop()
	node, err := kubelet.Open(ctx, kubelet.Options{BinDir: e.binDir, Image: e.image, Pool: filepath.Join(dir, "pool")})
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, closeNode(ctx, node)) }()
	volume, err := startWriting(ctx, node, prepared)
	if err != nil {
		return nil, err
	}
	var s samples
	for i := range runs {
		if err := run(ctx, "sync", "-f", dir); err != nil { // what the run before has deleted
			return nil, err
		}
		bare, err := floor.snapshot(filepath.Join(dir, fmt.Sprint("bare-", i)))
		if err != nil {
			return nil, err
		}
		if err := run(ctx, "sync", "-f", dir); err != nil {
			return nil, err
		}
		ours, err := frozenFor(ctx, node, volume, fmt.Sprint("snapshot-", i))
		if err != nil {
			return nil, err
		}
		s.add(milliseconds(ours), milliseconds(bare))
	}
	return []Figure{s.figure("snapshot-freeze", "guest's writers wait for a snapshot, 10 GiB ext4 holding 1 GiB, reflinked",
		"ms", valueAtMost(50), e.accel)}, nil
}

// mountReflinking makes and mounts an xfs in a file.
func mountReflinking(ctx context.Context, e *env) (dir string, unmount func() error, err error) {
	image, dir := filepath.Join(e.dir, "xfs.img"), filepath.Join(e.dir, "xfs")
	if err := errors.Join(makeSparse(image, 40<<30), os.Mkdir(dir, 0o700)); err != nil {
		return "", nil, err
	}
	if err := run(ctx, "mkfs.xfs", "-q", image); err != nil {
		return "", nil, err
	}
	if err := run(ctx, "mount", "-o", "loop", image, dir); err != nil {
		return "", nil, err
	}
	unmount = func() error { return run(context.WithoutCancel(ctx), "umount", dir) }
	if err := os.Mkdir(filepath.Join(dir, "pool"), 0o700); err != nil {
		return "", nil, errors.Join(err, unmount())
	}
	return dir, unmount, nil
}

// fillExt4 makes an image with an ext4 that holds files.
func fillExt4(ctx context.Context, e *env, image string) error {
	point := filepath.Join(e.dir, "fill")
	if err := errors.Join(makeSparse(image, snapshotBytes), os.Mkdir(point, 0o700)); err != nil {
		return err
	}
	if err := run(ctx, "mkfs.ext4", "-q", image); err != nil {
		return err
	}
	if err := run(ctx, "mount", "-o", "loop", image, point); err != nil {
		return err
	}
	err := run(ctx, "sh", "-c", fmt.Sprintf(`for i in $(seq 16); do head -c %d /dev/urandom >"$0/$i" || exit; done`, heldBytes/16), point)
	return errors.Join(err, run(context.WithoutCancel(ctx), "umount", point))
}

// freezing is a bare machine with a mounted disk.
type freezing struct {
	*bareMachine
	image *os.File
}

func startFreezing(ctx context.Context, e *env, dir, prepared string) (_ *freezing, err error) {
	image := filepath.Join(dir, "bare.img")
	if err := run(ctx, "cp", "--reflink=always", prepared, image); err != nil {
		return nil, err
	}
	f := &freezing{}
	if f.image, err = os.Open(image); err != nil {
		return nil, err
	}
	if f.bareMachine, _, err = startBare(ctx, e, true); err != nil {
		return nil, errors.Join(err, f.image.Close())
	}
	if err = f.plug("bench", image); err == nil {
		_, err = f.ask("mount /bench")
	}
	if err != nil {
		f.stop()
		return nil, err
	}
	return f, rest(ctx)
}

func (f *freezing) stop() {
	f.bareMachine.stop()
	_ = f.image.Close()
}

// snapshot does what has to be done, and no more. The guest says how long it took.
func (f *freezing) snapshot(path string) (took time.Duration, err error) {
	to, err := os.Create(path)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, to.Close(), os.Remove(path)) }()
	if _, err := f.ask("freeze /bench"); err != nil {
		return 0, err
	}
	err = unix.IoctlFileClone(int(to.Fd()), int(f.image.Fd()))
	microseconds, thawErr := f.ask("thaw /bench")
	return time.Duration(microseconds) * time.Microsecond, errors.Join(err, thawErr)
}

// startWriting runs a pod that has a volume with the prepared content, and writes to it.
func startWriting(ctx context.Context, node *kubelet.Node, prepared string) (*kubelet.Volume, error) {
	uid, v := uuid.NewString(), node.Volume("pvc-"+uuid.NewString(), snapshotBytes, "ext4")
	if err := v.Create(ctx); err != nil {
		return nil, err
	}
	if err := run(ctx, "cp", "--reflink=always", prepared, v.Image()); err != nil {
		return nil, err
	}
	if err := errors.Join(v.Stage(ctx), v.Publish(ctx, uid)); err != nil {
		return nil, err
	}
	pod, err := node.Lab.RunPod(ctx, lab.PodSpec{Name: "snapshot", UID: uid, Handler: kubelet.Handler})
	if err != nil {
		return nil, err
	}
	_, err = pod.Run(ctx, lab.ContainerSpec{
		Name: "app", Command: []string{"sh", "-c", `while :; do echo more >>/data/log; sync /data/log; sleep 0.05; done`},
		Mounts: []lab.Mount{{HostPath: v.TargetPath(uid), ContainerPath: "/data"}},
	})
	if err != nil {
		return nil, err
	}
	return v, rest(ctx)
}

// stoodStill is what the driver logs of a snapshot.
var stoodStill = regexp.MustCompile(`stood still".* frozen=(\S+)`)

// frozenFor takes a snapshot, and finds in the driver's log how long the guest says that its file system stood still.
func frozenFor(ctx context.Context, node *kubelet.Node, v *kubelet.Volume, name string) (time.Duration, error) {
	before := len(node.Driver().Said())
	s, err := v.Snapshot(ctx, name)
	if err != nil {
		return 0, err
	}
	found := stoodStill.FindStringSubmatch(node.Driver().Said()[before:])
	if found == nil {
		return 0, errors.New("the driver does not say how long the guest stood still")
	}
	took, err := time.ParseDuration(found[1])
	return took, errors.Join(err, node.DeleteSnapshot(ctx, s.GetSnapshotId()))
}

func run(ctx context.Context, name string, args ...string) error {
	if said, err := exec.CommandContext(ctx, name, args...).CombinedOutput(); err != nil {
		return fmt.Errorf("%s %q: %w: %s", name, args, err, said)
	}
	return nil
}
