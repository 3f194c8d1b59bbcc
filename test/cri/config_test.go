package cri

import (
	"context"
	"path/filepath"
	"strings"
	"testing"

	"github.com/katadirect/katadirect/internal/kubelet"
	"github.com/katadirect/katadirect/internal/lab"
	"github.com/katadirect/katadirect/test/artifacts"
)

// What is wrong with the configuration stands in the pod's event: in kubelet's words, the error of RunPodSandbox.
func TestAMistakeInTheConfigurationReachesTheCaller(t *testing.T) {
	for _, flavour := range lab.Flavours {
		t.Run("containerd "+string(flavour), func(t *testing.T) {
			options := artifacts.NodeOptions(flavour)
			options.Config = "memory_slots = -1\n"
			n := artifacts.NodeWith(t, options)
			_, err := n.Lab.RunPod(t.Context(), lab.PodSpec{Name: "pod", Handler: kubelet.Handler})
			if err == nil || !strings.Contains(err.Error(), "kata.toml, line 6: memory_slots = -1 is below 0") {
				t.Errorf("error %v", err)
			}
		})
	}
}

// The traps that people step into: runc's options under our type, and runc's whole section with only the program
// exchanged. The pod must not fail for them. containerd 1.6 does not know runtime_path, and sends nothing of options that
// its own runtime does not have; containerd 2 sends both.
func TestOptionsOfRuncsAreLeftAsideWithAWarning(t *testing.T) {
	mistaken := lab.Handler{Name: "mistaken", RuntimeType: "io.containerd.katadirect.v2", Options: "SystemdCgroup = true"}
	copied := lab.Handler{Name: "copied", RuntimeType: "io.containerd.runc.v2", Options: "SystemdCgroup = true",
		RuntimePath: filepath.Join(artifacts.BinDir, "containerd-shim-katadirect-v2")}
	for flavour, handlers := range map[lab.Flavour][]lab.Handler{lab.Debian: {mistaken}, lab.V2: {mistaken, copied}} {
		t.Run("containerd "+string(flavour), func(t *testing.T) {
			l, err := lab.Open(t.Context(), lab.Options{Containerd: flavour, BinDir: artifacts.BinDir, Handlers: handlers})
			if err != nil {
				t.Fatal(err)
			}
			defer func() {
				if left, err := l.Close(context.WithoutCancel(t.Context())); err != nil || len(left) > 0 {
					t.Errorf("%v, left over: %q", err, left)
				}
			}()
			for _, h := range handlers {
				// It comes as far as the defaults, whose guest is not on this node.
				_, err := l.RunPod(t.Context(), lab.PodSpec{Name: h.Name, Handler: h.Name})
				if err == nil || !strings.Contains(err.Error(), "katadirect guest build") {
					t.Errorf("%s: error %v", h.Name, err)
				}
			}
			if said := l.Containerd().Said(); flavour == lab.V2 && !strings.Contains(said, "ignoring runtime options") {
				t.Errorf("no warning in\n%s", l.Containerd().LastWords())
			}
		})
	}
}
