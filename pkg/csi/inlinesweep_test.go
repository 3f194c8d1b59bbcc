package csi

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/katadirect/katadirect/pkg/csi/mode"
)

// Somebody has reset the node's kubelet while the driver was away: the pod's folders are gone, and its mounts with them.
func TestWhatTheHostHasOfAVanishedPodsInlineVolumeIsTakenAwayAtStart(t *testing.T) {
	for name, elsewhere := range map[string]bool{"nowhere else": false, "mounted elsewhere too": true} {
		t.Run(name, func(t *testing.T) {
			h, cluster := newModesHost(t)
			cluster.classOf["pod"] = ""
			i, living := h.inline("vanished"), h.inline("living")
			must(t, i.publish(mode.Key, "auto"))
			must(t, living.publish(mode.Key, "auto"))
			must(t, os.WriteFile(filepath.Join(i.target, "file"), []byte("text"), 0o600))
			other := h.path("subpath")
			if elsewhere {
				must(t, os.Mkdir(other, 0o750))
				must(t, unix.Mount(i.target, other, "", unix.MS_BIND, ""))
				t.Cleanup(func() { _ = unix.Unmount(other, unix.MNT_DETACH) })
			}
			h.stop()
			must(t, unix.Unmount(i.target, 0))
			must(t, os.RemoveAll(h.path("kubelet/pods/vanished")))
			h.start()
			if elsewhere {
				if data, err := os.ReadFile(filepath.Join(other, "file")); err != nil || string(data) != "text" {
					t.Errorf("the file that is still mounted has %q, %v", data, err)
				}
				if _, err := i.volume(); err != nil || !strings.Contains(h.log.String(), other) {
					t.Errorf("a volume that is still mounted: %v", err)
				}
				must(t, unix.Unmount(other, 0))
				h.restart()
			}
			i.gone()
			if !isMounted(living.target) {
				t.Error("a living pod has lost its volume")
			}
			must(t, living.unpublish())
			living.gone()
			h.nothingLeft()
		})
	}
}
