// Package crash kills, one at a time and at every step, what the demo is made of, and looks whether the next attempt
// works and nothing is left over.
package crash

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/katadirect/katadirect/internal/demo"
	"github.com/katadirect/katadirect/internal/kubelet"
	"github.com/katadirect/katadirect/internal/lab"
	"github.com/katadirect/katadirect/test/artifacts"
)

func TestMain(m *testing.M) { artifacts.Main(m) }

// testLog writes the demo's lines to the test's log.
type testLog struct{ t *testing.T }

func (l testLog) Write(p []byte) (int, error) {
	l.t.Log(strings.TrimRight(string(p), "\n"))
	return len(p), nil
}

// kill ends, as a crash does, every process of the lab whose command line has all of the words, and returns when they
// are gone.
func kill(ctx context.Context, n *kubelet.Node, words ...string) error {
	if err := signal(n, syscall.SIGKILL, words...); err != nil {
		return err
	}
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		if left, err := n.Lab.Find(words...); err != nil || len(left) == 0 {
			return err
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// signal sends sig to every process of the lab whose command line has all of the words.
func signal(n *kubelet.Node, sig syscall.Signal, words ...string) error {
	pids, err := n.Lab.Find(words...)
	if err != nil {
		return err
	}
	if len(pids) == 0 {
		return errors.New("no such process: " + strings.Join(words, " "))
	}
	for _, pid := range pids {
		if err := syscall.Kill(pid, sig); err != nil && !errors.Is(err, syscall.ESRCH) {
			return err
		}
	}
	return nil
}

// Before each step the driver is killed and started again. Nothing may notice.
func TestTheDemoGoesOnWhenTheDriverIsKilledBetweenAnyTwoSteps(t *testing.T) {
	_, err := demo.Run(t.Context(), demo.Options{
		Node: artifacts.NodeOptions(lab.Debian),
		Out:  testLog{t},
		Before: func(ctx context.Context, step string, n *kubelet.Node) error {
			n.Driver().Kill()
			return n.StartDriver(ctx)
		},
	})
	if err != nil {
		t.Fatal(err)
	}
}

// The same for containerd: shims and machines outlive it.
func TestTheDemoGoesOnWhenContainerdIsKilledBetweenAnyTwoSteps(t *testing.T) {
	for _, flavour := range lab.Flavours {
		t.Run("containerd "+string(flavour), func(t *testing.T) {
			_, err := demo.Run(t.Context(), demo.Options{
				Node: artifacts.NodeOptions(flavour),
				Out:  testLog{t},
				Before: func(ctx context.Context, step string, n *kubelet.Node) error {
					n.Lab.Containerd().Kill()
					return n.Lab.StartContainerd(ctx)
				},
			})
			if err != nil {
				t.Fatal(err)
			}
		})
	}
}

// Data that a container has synced is there for the next pod, on the same node, whatever was killed; and if that was the
// machine, kubelet finds why in the container's termination message.
func TestTheNextPodHasTheDataWhenTheFirstIsKilled(t *testing.T) {
	for victim, tc := range map[string]struct{ process, message string }{
		"the machine": {"qemu-system-x86_64", "virtual machine is gone"},
		"the shim":    {"containerd-shim-katadirect-v2", ""},
	} {
		t.Run(victim, func(t *testing.T) {
			message := filepath.Join(t.TempDir(), "termination-log")
			must(t, os.WriteFile(message, nil, 0o666))
			n := artifacts.Node(t, lab.Debian)
			v := n.Volume("pvc-crash", 1<<30, "ext4")
			must(t, v.Create(t.Context()))
			must(t, v.Stage(t.Context()))
			read := func(podUID, script string) string {
				t.Helper()
				must(t, v.Publish(t.Context(), podUID))
				pod, err := n.Lab.RunPod(t.Context(), lab.PodSpec{Name: podUID, Handler: kubelet.Handler, UID: podUID})
				must(t, err)
				c, err := pod.Run(t.Context(), lab.ContainerSpec{
					Name: "app", Command: []string{"sleep", "infinity"},
					Mounts: []lab.Mount{
						{HostPath: v.TargetPath(podUID), ContainerPath: "/data"},
						{HostPath: message, ContainerPath: "/dev/termination-log"},
					},
				})
				must(t, err)
				out, err := c.Exec(t.Context(), "sh", "-c", script)
				must(t, err)
				return out
			}
			read("first", "echo kept >/data/file && sync")
			must(t, kill(t.Context(), n, tc.process))
			must(t, n.RemovePods(t.Context()))
			if got, err := os.ReadFile(message); err != nil || (len(got) > 0) != (tc.message != "") || !strings.Contains(string(got), tc.message) {
				t.Errorf("kubelet reads the termination message %q, %v; want %q", got, err, tc.message)
			}
			must(t, v.Unpublish(t.Context(), "first"))
			if got := read("second", "cat /data/file"); got != "kept\n" {
				t.Errorf("the next pod reads %q", got)
			}
			must(t, n.RemovePods(t.Context()))
			must(t, v.Unpublish(t.Context(), "second"))
			must(t, v.Unstage(t.Context()))
			must(t, v.Delete(t.Context()))
		})
	}
}

// The driver is killed at a different instant of each of a row of expansions; kubelet repeats the call.
func TestExpansionsSucceedWhenTheDriverIsKilledInThem(t *testing.T) {
	n := artifacts.Node(t, lab.Debian)
	v := n.Volume("pvc-crash", 1<<30, "ext4")
	must(t, v.Create(t.Context()))
	must(t, v.Stage(t.Context()))
	must(t, v.Publish(t.Context(), "pod"))
	pod, err := n.Lab.RunPod(t.Context(), lab.PodSpec{Name: "pod", Handler: kubelet.Handler, UID: "pod"})
	must(t, err)
	c, err := pod.Run(t.Context(), lab.ContainerSpec{
		Name: "app", Command: []string{"sleep", "infinity"},
		Mounts: []lab.Mount{{HostPath: v.TargetPath("pod"), ContainerPath: "/data"}},
	})
	must(t, err)
	for i := range 8 {
		size := int64(i+2) << 30
		expanded := make(chan error, 1)
		go func() { expanded <- v.Expand(t.Context(), "pod", size) }()
		time.Sleep(time.Duration(i) * 5 * time.Millisecond) // the instant is what is varied here
		n.Driver().Kill()
		must(t, n.StartDriver(t.Context()))
		must(t, <-expanded)
		usage, err := v.Stats(t.Context(), "pod")
		must(t, err)
		if usage.Total > size || usage.Total < size*9/10 {
			t.Errorf("after the expansion to %d the volume has %d bytes", size, usage.Total)
		}
	}
	_, err = c.Exec(t.Context(), "sh", "-c", "echo fine >/data/file && sync")
	must(t, err)
	must(t, n.RemovePods(t.Context()))
	must(t, v.Unpublish(t.Context(), "pod"))
	must(t, v.Unstage(t.Context()))
	must(t, v.Delete(t.Context()))
}

// A guest that never answers again: the machine is stopped where it stands, and the pod deleted. It must be killed
// within bounded time, with nothing left, and the next pod must have the volume.
func TestAPodWhoseGuestNeverAnswersIsRemoved(t *testing.T) {
	for _, flavour := range lab.Flavours {
		t.Run("containerd "+string(flavour), func(t *testing.T) {
			report, err := demo.Run(t.Context(), demo.Options{
				Node: artifacts.NodeOptions(flavour),
				Out:  testLog{t},
				Before: func(_ context.Context, step string, n *kubelet.Node) error {
					if step != demo.StepDeletePod {
						return nil
					}
					return signal(n, syscall.SIGSTOP, "qemu-system-x86_64")
				},
			})
			if err != nil {
				t.Errorf("the demo has not gone on: %v", err)
			}
			if len(report.Leftovers) > 0 {
				t.Errorf("left over:\n%s", strings.Join(report.Leftovers, "\n"))
			}
		})
	}
}

// What all other tests rely on: the search finds every part of a pod that is not taken away.
func TestTheSearchFindsAPodThatIsNotTakenAway(t *testing.T) {
	n, err := kubelet.Open(t.Context(), artifacts.NodeOptions(lab.Debian))
	must(t, err)
	v := n.Volume("pvc-crash", 1<<30, "ext4")
	must(t, v.Create(t.Context()))
	must(t, v.Stage(t.Context()))
	must(t, v.Publish(t.Context(), "pod"))
	pod, err := n.Lab.RunPod(t.Context(), lab.PodSpec{Name: "pod", Handler: kubelet.Handler, UID: "pod"})
	must(t, err)
	_, err = pod.Run(t.Context(), lab.ContainerSpec{
		Name: "app", Command: []string{"sleep", "infinity"},
		Mounts: []lab.Mount{{HostPath: v.TargetPath("pod"), ContainerPath: "/data"}},
	})
	must(t, err)
	left, err := n.Close(t.Context())
	must(t, err)
	for _, want := range []string{
		"process .*qemu-system-x86_64", "process .*virtiofsd", "process .*containerd-shim-katadirect-v2",
		"mount: shm on .*" + pod.ID, "mount: nsfs on /run/netns/cni-", "containerd task: .*" + pod.ID,
		"file: /run/kata-containers/shared/direct-volumes/.*/mountInfo.json",
		"file: /run/kata-containers/shared/direct-volumes/.*/" + pod.ID,
		"socket: /run/vc/sbs/" + pod.ID + "/shim-monitor.sock", "file: /run/vc/sbs/" + pod.ID + "/lease",
		"socket: /run/vc/vm/" + pod.ID, "file: .*/pool/.*/disk.img", "file: .*/csi/staged/", "/run/lab-ipam/",
	} {
		pattern := regexp.MustCompile(want)
		if !slices.ContainsFunc(left, pattern.MatchString) {
			t.Errorf("the search has not found %q in\n%s", want, strings.Join(left, "\n"))
		}
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
