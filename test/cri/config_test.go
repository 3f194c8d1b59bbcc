package cri

import (
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
