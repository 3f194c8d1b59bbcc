package hostile

import (
	"context"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"
	"unicode"

	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/katadirect/katadirect/internal/lab"
	"github.com/katadirect/katadirect/pkg/directvolume"
)

// run runs a container whose process does the evil.
func run(t *testing.T, pod *lab.Pod, evil string) *lab.Container {
	t.Helper()
	c, err := pod.Run(t.Context(), lab.ContainerSpec{Name: "c-" + evil, Command: []string{evil}})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// A guest whose pod runs can lie about everything in it. The rest of the pod, and the shim, go on.
func TestAGuestThatLiesIsAnsweredWithErrors(t *testing.T) {
	h := newHost(t)
	peak := h.watchShims()
	pod, err := h.runPod(t.Context(), "details")
	if err != nil {
		t.Fatal(err)
	}
	main := run(t, pod, "sleep")

	t.Run("an error of a megabyte, for a terminal", func(t *testing.T) {
		_, err := main.Exec(t.Context(), "error")
		if err == nil {
			t.Fatal("the exec succeeded")
		}
		checkText(t, err.Error())
	})
	t.Run("an exit status that there is not", func(t *testing.T) {
		_, err := main.Exec(t.Context(), "status")
		if ended, ok := err.(*lab.ExitError); !ok || ended.Code != 255 {
			t.Errorf("the exec ended with %v, want the code 255", err)
		}
	})
	t.Run("an error in place of the exit status", func(t *testing.T) {
		_, err := main.Exec(t.Context(), "wait-error")
		if ended, ok := err.(*lab.ExitError); !ok || ended.Code != 255 {
			t.Errorf("the exec ended with %v, want the code 255", err)
		}
	})
	t.Run("more output than was asked for", func(t *testing.T) {
		c := run(t, pod, "reads")
		if err := c.Stop(t.Context(), 0); err != nil {
			t.Error(err)
		}
		if err := c.Remove(t.Context()); err != nil {
			t.Error(err)
		}
	})
	t.Run("output without end", func(t *testing.T) {
		c := run(t, pod, "endless")
		time.Sleep(2 * time.Second)
		if err := c.Stop(t.Context(), 0); err != nil {
			t.Error(err)
		}
		if err := c.Remove(t.Context()); err != nil {
			t.Error(err)
		}
	})
	t.Run("statistics without end", func(t *testing.T) {
		c := run(t, pod, "stats")
		for range 5 {
			if _, err := c.Stats(t.Context()); err != nil {
				checkText(t, err.Error())
			}
		}
	})
	t.Run("metrics without end", func(t *testing.T) {
		text, err := h.metrics(t.Context(), pod)
		if err != nil {
			checkText(t, err.Error())
		}
		if i := strings.IndexFunc(string(text), func(r rune) bool { return !unicode.IsGraphic(r) && r != '\n' }); i >= 0 {
			t.Errorf("the metrics hold %q", text[i:min(len(text), i+100)])
		}
		t.Logf("%d bytes, %v", len(text), err)
	})
	if _, err := main.Exec(t.Context(), "true"); err != nil {
		t.Errorf("after all that an exec fails: %v", err)
	}
	remove(t, pod)
	checkPeak(t, peak())
}

// The shim takes much output past its ttrpc library if the guest says that it sends it by itself. These do not keep to the
// credit they have, or have no such service, and have a library that refuses all further calls.
func TestAGuestThatPromisesOutputAndKeepsToNothingCostsOnlyItsPod(t *testing.T) {
	h := newHost(t)
	for _, tc := range []struct{ guest, container string }{
		{"output", "beyond"}, {"output", "pieces"}, {"output", "nothing"}, {"output", "reason"}, {"no-output", "beyond"},
		{"no-output", "endless"},
	} {
		t.Run(tc.guest+", "+tc.container, func(t *testing.T) {
			peak := h.watchShims()
			pod, err := h.runPod(t.Context(), tc.guest)
			if err != nil {
				t.Fatal(err)
			}
			run(t, pod, tc.container)
			time.Sleep(2 * time.Second)
			// Until the shim has found the guest dead, an attempt can fail. kubelet makes another.
			for began := time.Now(); time.Since(began) < noticeLimit; time.Sleep(time.Second) {
				if err := pod.Remove(context.WithoutCancel(t.Context())); err == nil {
					checkPeak(t, peak())
					return
				}
			}
			remove(t, pod)
			checkPeak(t, peak())
		})
	}
}

// metrics asks the pod's shim.
func (h host) metrics(ctx context.Context, pod *lab.Pod) ([]byte, error) {
	dir, err := os.Open(h.Path(directvolume.DefaultGoDir)) // the socket's whole path is too long
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	sandboxes := directvolume.Sandboxes{GoDir: fmt.Sprintf("/proc/self/fd/%d", dir.Fd())}
	return directvolume.NewClient(pod.ID, directvolume.WithClientSandboxes(sandboxes)).Metrics(ctx)
}

// A guest that breaks the channel while its pod runs is dead: the pod is reported failed soon.
func TestAGuestThatBreaksTheChannelIsReportedDead(t *testing.T) {
	h := newHost(t)
	for _, evil := range []string{"frame", "garbage"} {
		t.Run(evil, func(t *testing.T) {
			peak := h.watchShims()
			pod, err := h.runPod(t.Context(), "")
			if err != nil {
				t.Fatal(err)
			}
			c := run(t, pod, "sleep")
			if _, err := c.Exec(t.Context(), evil); err != nil {
				checkText(t, err.Error())
			}
			ctx, cancel := context.WithTimeout(t.Context(), noticeLimit)
			defer cancel()
			if code, err := c.Wait(ctx); err != nil || code != 137 {
				t.Errorf("the container ended with %d, %v, want 137", code, err)
			}
			status, err := h.CRI().PodSandboxStatus(ctx, &cri.PodSandboxStatusRequest{PodSandboxId: pod.ID})
			for err == nil && status.GetStatus().GetState() != cri.PodSandboxState_SANDBOX_NOTREADY {
				time.Sleep(50 * time.Millisecond)
				status, err = h.CRI().PodSandboxStatus(ctx, &cri.PodSandboxStatusRequest{PodSandboxId: pod.ID})
			}
			if err != nil {
				t.Errorf("the pod's state is not known, or still ready: %v", err)
			}
			if _, err := c.Exec(t.Context(), "true"); err == nil {
				t.Error("an exec succeeds")
			} else {
				t.Log(err)
				checkText(t, err.Error())
			}
			remove(t, pod)
			checkPeak(t, peak())
		})
	}
}
