// Package hostile lets guests under somebody else's control do their worst to the shim: answers that make no sense, that
// never end, that never come, words that are meant for a terminal. The shim must stay small, answer in time, tell why,
// and leave nothing behind.
package hostile

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
	"unicode"

	"github.com/katadirect/katadirect/internal/guestimage"
	"github.com/katadirect/katadirect/internal/kubelet"
	"github.com/katadirect/katadirect/internal/lab"
	"github.com/katadirect/katadirect/test/artifacts"
)

func TestMain(m *testing.M) { artifacts.Main(m) }

const (
	// dialTimeoutSeconds is how long the shim waits for the agent here.
	dialTimeoutSeconds = 12
	// noticeLimit is how long a pod's end may take to be seen, on a machine that has other things to do. Nothing here
	// waits for that long.
	noticeLimit = 45 * time.Second
	// maxShimKiB is the most that any guest may make of a shim.
	maxShimKiB = 40 << 10
	// maxErrorBytes is the most that any guest may make of an error that reaches the pod's events.
	maxErrorBytes = 8 << 10
)

// host is a lab whose machines boot the hostile guest.
type host struct{ *lab.Lab }

func newHost(t *testing.T) host {
	t.Helper()
	config := fmt.Sprintf(`[hypervisor.qemu]
kernel = %q
initrd = %q
default_memory = 256
enable_annotations = ["kernel_params"]
[agent.kata]
dial_timeout = %d
`, artifacts.Image.Kernel, buildGuest(t).Initrd, dialTimeoutSeconds)
	l, err := lab.Open(t.Context(), lab.Options{
		BinDir: artifacts.BinDir,
		Handlers: []lab.Handler{{
			Name: kubelet.Handler, RuntimeType: "io.containerd.katadirect.v2", Config: config,
		}},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("containerd's and the shims' last words:\n%s", l.Containerd().LastWords())
		}
		ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), 2*time.Minute)
		defer cancel()
		left, err := l.Close(ctx)
		if err != nil {
			t.Error(err)
		}
		if len(left) > 0 {
			t.Errorf("left over:\n%s", strings.Join(left, "\n"))
		}
	})
	return host{l}
}

// buildGuest makes the image with the hostile guest in the agent's place.
func buildGuest(t *testing.T) guestimage.Image {
	t.Helper()
	dir := t.TempDir()
	build := exec.Command("go", "build", "-trimpath", "-ldflags=-s -w", "-o", filepath.Join(dir, "guest"), "./guest")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if said, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, said)
	}
	image, err := guestimage.Build(t.Context(), guestimage.Options{
		Output: filepath.Join(dir, "image"), AgentPath: filepath.Join(dir, "guest"),
	})
	if err != nil {
		t.Fatal(err)
	}
	return image
}

// runPod runs a pod whose guest does the evil before it is ready.
func (h host) runPod(ctx context.Context, evil string) (*lab.Pod, error) {
	return h.RunPod(ctx, lab.PodSpec{Name: "pod-" + evil, Handler: kubelet.Handler, Annotations: map[string]string{
		"io.katacontainers.config.hypervisor.kernel_params": "hostile=" + evil,
	}})
}

func remove(t *testing.T, pod *lab.Pod) {
	t.Helper()
	began := time.Now()
	if err := pod.Remove(context.WithoutCancel(t.Context())); err != nil {
		t.Error(err)
	}
	if took := time.Since(began); took > noticeLimit {
		t.Errorf("the pod took %s to be removed", took)
	}
}

// checkText fails the test for text that nobody should get to see: too long, or meant for a terminal.
func checkText(t *testing.T, text string) {
	t.Helper()
	if len(text) > maxErrorBytes {
		t.Errorf("%d bytes of text", len(text))
	}
	for _, r := range text {
		if !unicode.IsGraphic(r) && r != '\n' && r != '\t' {
			t.Errorf("the text holds %q: %.300q", r, text)
			return
		}
	}
}

// watchShims looks, until stop, how large the shims become at most.
func (h host) watchShims() (stop func() (peakKiB int)) {
	ctx, cancel := context.WithCancel(context.Background())
	result := make(chan int, 1)
	go func() {
		peak := 0
		for ctx.Err() == nil {
			pids, _ := h.Find("containerd-shim-katadirect-v2")
			for _, pid := range pids {
				peak = max(peak, highWater(pid))
			}
			time.Sleep(20 * time.Millisecond)
		}
		result <- peak
	}()
	return func() int { cancel(); return <-result }
}

// highWater is the most that a process has ever had in memory, in KiB; 0 once it is gone.
func highWater(pid int) int {
	status, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	for line := range strings.Lines(string(status)) {
		if rest, ok := strings.CutPrefix(line, "VmHWM:"); ok {
			kib, _ := strconv.Atoi(strings.Fields(rest)[0])
			return kib
		}
	}
	return 0
}

func checkPeak(t *testing.T, kib int) {
	t.Helper()
	t.Logf("the shim had %d KiB at most", kib)
	if kib == 0 || kib > maxShimKiB {
		t.Errorf("the shim had %d KiB at most, may have %d", kib, maxShimKiB)
	}
}
