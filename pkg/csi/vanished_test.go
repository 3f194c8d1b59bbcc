package csi

import (
	"os"
	"path/filepath"
	"testing"
)

// Whoever removes an image while a pod has it leaves the pod a file system that is still there. It has to be able to end,
// and the driver may be another one by then.
func TestAPodEndsThoughItsVolumesImageHasVanished(t *testing.T) {
	for name, remove := range map[string]func(v volume) error{
		"the image":  func(v volume) error { return os.Remove(v.image()) },
		"the folder": func(v volume) error { return os.RemoveAll(filepath.Dir(v.image())) },
		"renamed":    func(v volume) error { return os.Rename(v.image(), v.image()+".old") },
	} {
		t.Run(name, func(t *testing.T) {
			h, _ := newModesHost(t)
			other := h.createIn("other", inMode("host"))
			must(t, other.stage())
			must(t, other.publishFor("plain", h.target("other")))
			v := h.createIn("data", inMode("host"))
			must(t, v.stage())
			target := h.target("plain")
			must(t, v.publishFor("plain", target))
			must(t, remove(v))
			h.restart()
			if v.publishFor("plain", h.target("late")) == nil {
				t.Error("another pod gets what has vanished")
			}
			must(t, v.unpublish(target))
			must(t, v.unstage())
			must(t, v.unstage())
			if isMounted(target) || isMounted(h.staging(v.id)) {
				t.Error("it is still mounted")
			}
			if devices := h.loopDevices(); len(devices) != 1 || !isMounted(h.target("other")) {
				t.Errorf("the other volume has %v", devices)
			}
			must(t, other.unpublish(h.target("other")))
			h.nothingLeft()
		})
	}
}

// A device of an image that has vanished is no device that a pod may be given.
func TestAVanishedImageIsPublishedToNobody(t *testing.T) {
	h, _ := newModesHost(t)
	raw := h.createIn("raw", inMode("direct"), asBlock)
	must(t, raw.stage())
	must(t, os.Remove(raw.image()))
	if raw.publishFor("plain", h.target("raw")) == nil {
		t.Error("a pod has got the device")
	}
	must(t, raw.unstage())
	h.nothingLeft()
}
