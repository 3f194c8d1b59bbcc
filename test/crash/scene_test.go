package crash

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"testing"
	"time"

	"github.com/katadirect/katadirect/internal/kubelet"
	"github.com/katadirect/katadirect/internal/lab"
	"github.com/katadirect/katadirect/test/artifacts"
)

// scene is a node with one volume, on which one pod after the other loses something.
type scene struct {
	node   *kubelet.Node
	volume *kubelet.Volume
	before []string // what is on the node without any pod

	noticed, booted []time.Duration // how long it took until ends were seen, and pods ran

	uid         string
	annotations map[string]string // of the pod
	pod         *lab.Pod
	container   *lab.Container
}

func newScene(t *testing.T, flavour lab.Flavour) *scene {
	t.Helper()
	return newSceneOn(t, artifacts.Node(t, flavour))
}

func newSceneOn(t *testing.T, n *kubelet.Node) *scene {
	t.Helper()
	s := &scene{node: n, volume: n.Volume("pvc-crash", 1<<30, "ext4")}
	must(t, s.volume.Create(t.Context()))
	must(t, s.volume.Stage(t.Context()))
	s.checkData(t, "")
	var err error
	s.before, err = n.Lab.Survey()
	must(t, err)
	return s
}

// close looks whether the data is still there, and takes the volume away.
func (s *scene) close(t *testing.T) {
	t.Helper()
	s.checkData(t, "kept\n")
	must(t, s.volume.Unstage(t.Context()))
	must(t, s.volume.Delete(t.Context()))
}

func (s *scene) boot(ctx context.Context) (err error) {
	began := time.Now()
	s.pod, err = s.node.Lab.RunPod(ctx, lab.PodSpec{
		Name: "pod", Handler: kubelet.Handler, UID: s.uid, Privileged: true, Annotations: s.annotations,
	})
	if err == nil {
		s.booted = append(s.booted, time.Since(began))
	}
	return err
}

// ticks is what the container does: output flows at all times.
const ticks = "i=0; while :; do i=$((i+1)); echo tick $i; sleep 0.2; done"

func (s *scene) create(ctx context.Context) (err error) {
	s.container, err = s.pod.Run(ctx, lab.ContainerSpec{
		Name: "app", Command: []string{"sh", "-c", ticks}, Privileged: true,
		Mounts: []lab.Mount{{HostPath: s.volume.TargetPath(s.uid), ContainerPath: "/data"}},
	})
	return err
}

func (s *scene) exec(ctx context.Context) error {
	_, err := s.container.Exec(ctx, "sh", "-c", "echo started >/tmp/started; sleep 1000")
	return err
}

func (s *scene) resize(ctx context.Context) error {
	return s.volume.Expand(ctx, s.uid, s.volume.SizeBytes+(64<<20))
}

func (s *scene) remove(ctx context.Context) error { return s.pod.Remove(ctx) }

// untilMachine waits until the guest boots.
func (s *scene) untilMachine(ctx context.Context) error {
	err := poll(ctx, func() (bool, error) {
		pids, err := s.node.Lab.Find("qemu-system-x86_64")
		return len(pids) > 0, err
	})
	time.Sleep(500 * time.Millisecond) // into its kernel
	return err
}

// untilClaim waits until the shim has claimed the volume, which it plugs next.
func (s *scene) untilClaim(ctx context.Context) error {
	return poll(ctx, func() (bool, error) {
		claims, err := filepath.Glob(filepath.Join(s.node.Lab.Path("/run/kata-containers/shared/direct-volumes"), "*", s.pod.ID))
		return len(claims) > 0, err
	})
}

// untilExec waits until the exec's process runs.
func (s *scene) untilExec(ctx context.Context) error {
	return poll(ctx, func() (bool, error) {
		_, err := s.container.Exec(ctx, "test", "-e", "/tmp/started")
		if ended := (*lab.ExitError)(nil); errors.As(err, &ended) {
			return false, nil
		}
		return err == nil, err
	})
}

func poll(ctx context.Context, reached func() (bool, error)) error {
	ctx, cancel := context.WithTimeout(ctx, noticeLimit)
	defer cancel()
	for {
		if ok, err := reached(); ok || err != nil {
			return err
		}
		select {
		case <-time.After(time.Millisecond):
		case <-ctx.Done():
			return fmt.Errorf("the moment has not come: %w", ctx.Err())
		}
	}
}
