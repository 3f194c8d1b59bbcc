package cri

import (
	"context"
	"errors"
	"os"
	osexec "os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/katadirect/katadirect/internal/guestimage"
	"github.com/katadirect/katadirect/internal/kubelet"
	"github.com/katadirect/katadirect/internal/lab"
	"github.com/katadirect/katadirect/test/artifacts"
)

// katasDouble is a guest image whose agent can do what Kata's can, and no more.
func katasDouble(t *testing.T) guestimage.Image {
	t.Helper()
	dir := t.TempDir()
	agent := filepath.Join(dir, "agent")
	build := osexec.CommandContext(t.Context(), "go", "build", "-trimpath",
		"-ldflags=-s -w -X github.com/katadirect/katadirect/pkg/agent/server.onlyKatas=yes", "-o", agent, "../../cmd/agent")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	image, err := guestimage.Build(t.Context(), guestimage.Options{Output: filepath.Join(dir, "guest"), AgentPath: agent})
	if err != nil {
		t.Fatal(err)
	}
	return image
}

// With Kata's agent in the guest the shim does what can be done with it, and says plainly what cannot.
func TestWithKatasAgentTheShimSaysWhatCannotBeDone(t *testing.T) {
	options := artifacts.NodeOptions(lab.Debian)
	options.Image = katasDouble(t)
	n, err := kubelet.Open(t.Context(), options)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("the shim's last words:\n%s", n.Lab.Containerd().LastWords())
		}
		ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), 3*time.Minute)
		defer cancel()
		left, err := n.Close(ctx)
		if err != nil || len(left) > 0 {
			t.Errorf("left over: %s, %v", strings.Join(left, "\n"), err)
		}
	})
	v := volume(t, n, "ext4")
	uid := uuid.NewString()
	mount := publish(t, n, v, uid)
	pod, err := n.Lab.RunPod(t.Context(), lab.PodSpec{Name: "pod", UID: uid, Handler: kubelet.Handler})
	if err != nil {
		t.Fatal(err)
	}
	plain := run(t, pod, "plain", idle)
	exec(t, plain, "true")

	// Kata's agent would have to format without looking, which nobody wants.
	_, err = pod.Run(t.Context(), lab.ContainerSpec{Name: "blank", Command: []string{"true"}, Mounts: []lab.Mount{mount}})
	if err == nil || !strings.Contains(err.Error(), "the agent in the guest cannot format it") {
		t.Errorf("a container with a blank volume: %v, want a refusal that speaks of the agent", err)
	}
	images, err := filepath.Glob(filepath.Join(n.Lab.Dir, "pool", "*", "*.img"))
	if err != nil || len(images) == 0 {
		all, _ := filepath.Glob(filepath.Join(n.Lab.Dir, "pool", "*", "*"))
		t.Fatalf("no image in the pool: %v of %v", err, all)
	}
	if out, err := osexec.CommandContext(t.Context(), "mkfs.ext4", "-q", "-F", images[0]).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	c := run(t, pod, "formatted", idle, mount)
	exec(t, c, "echo kept >/data/file; sync")
	if usage, err := v.Stats(t.Context(), uid); err != nil || usage.Total == 0 {
		t.Errorf("its figures: %v, %v", usage, err)
	}
	err = v.Expand(t.Context(), uid, 2*gibibyte)
	if err == nil || !strings.Contains(err.Error(), "the agent in the guest cannot grow a mounted file system") {
		t.Errorf("expanding it: %v, want a plain refusal", err)
	}
	if got := exec(t, c, "cat /data/file"); got != "kept\n" {
		t.Errorf("afterwards the volume holds %q", got)
	}
	if err := errors.Join(pod.Remove(t.Context())); err != nil {
		t.Error(err)
	}
}
