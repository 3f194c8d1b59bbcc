package csi

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"golang.org/x/sys/unix"

	"github.com/katadirect/katadirect/internal/filesystem"
	"github.com/katadirect/katadirect/pkg/csi/kube"
	"github.com/katadirect/katadirect/pkg/csi/loop"
	"github.com/katadirect/katadirect/pkg/csi/mode"
	"github.com/katadirect/katadirect/pkg/directvolume"
)

// fakeCluster answers what a test says, or fails. The real one is asked in test/e2e.
type fakeCluster struct {
	classOf  map[string]string // a pod's RuntimeClass, by its name
	policyOf map[string]string // and its fsGroupChangePolicy
	runtimes map[string]mode.Runtime
	claim    mode.Mode
	err      error
	asked    int
}

func newFakeCluster() *fakeCluster {
	return &fakeCluster{
		classOf: map[string]string{"machine": "kata", "plain": ""},
		runtimes: map[string]mode.Runtime{
			"kata": {Class: "kata", Handler: "kata-qemu"},
		},
	}
}

func (f *fakeCluster) Pod(_ context.Context, name kube.PodName) (kube.Pod, error) {
	f.asked++
	class, known := f.classOf[name.Name]
	if !known && f.err == nil {
		return kube.Pod{}, fmt.Errorf("%w: pod %s", kube.ErrNotFound, name)
	}
	return kube.Pod{RuntimeClass: class, FSGroupChangePolicy: f.policyOf[name.Name]}, f.err
}

func (f *fakeCluster) Runtime(_ context.Context, name string) (mode.Runtime, error) {
	return f.runtimes[name], f.err
}

func (f *fakeCluster) ModeOfClaim(_ context.Context, id kube.VolumeID, names ...string) (mode.Mode, error) {
	if id.Driver != DriverName || id.Handle == "" || len(names) == 0 {
		return "", errors.New("asked for no volume of ours")
	}
	return f.claim, f.err
}

// newModesHost is a host with a Kubernetes, whose mounts and loop devices are gone when the test is over.
func newModesHost(t *testing.T) (*host, *fakeCluster) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Fatal("mounting needs root: run the tests as root")
	}
	h := newHost(t)
	cluster := newFakeCluster()
	h.cluster = cluster
	h.restart()
	t.Cleanup(func() {
		h.stop()
		for _, mounted := range h.mountsBelow(h.dir) {
			_ = unix.Unmount(mounted, unix.MNT_DETACH)
		}
		h.sweepLoops()
	})
	return h, cluster
}

func (h *host) mountsBelow(dir string) []string {
	h.t.Helper()
	var found []string
	table, err := os.ReadFile("/proc/self/mountinfo")
	must(h.t, err)
	for line := range strings.Lines(string(table)) {
		var skip, path string
		if n, _ := fmt.Sscan(line, &skip, &skip, &skip, &skip, &path); n == 5 && len(path) > len(dir) && path[:len(dir)+1] == dir+"/" {
			found = append([]string{path}, found...)
		}
	}
	return found
}

// createIn makes a volume of a class with those parameters.
func (h *host) createIn(name string, parameters map[string]string, change ...func(*csi.VolumeCapability)) volume {
	h.t.Helper()
	r := createRequest(name, gib/2, change...)
	r.Parameters = parameters
	made, err := h.CreateVolume(h.t.Context(), r)
	must(h.t, err)
	return volume{h: h, id: made.GetVolume().GetVolumeId(), context: made.GetVolume().GetVolumeContext(), cap: r.VolumeCapabilities[0]}
}

func inMode(m string) map[string]string { return map[string]string{mode.Key: m} }

// publishFor publishes the volume as kubelet does with podInfoOnMount.
func (v volume) publishFor(pod, targetPath string, change ...func(*csi.NodePublishVolumeRequest)) error {
	v.h.t.Helper()
	r := v.publishRequest(targetPath)
	r.VolumeContext = map[string]string{contextPodName: pod, contextPodNamespace: "space", contextPodUID: "uid-of-" + pod}
	for key, value := range v.context {
		r.VolumeContext[key] = value
	}
	for _, f := range change {
		f(r)
	}
	_, err := v.h.NodePublishVolume(v.h.t.Context(), r)
	return err
}

// nothingLeft checks that the host has nothing of any volume, save for its staged state.
func (h *host) nothingLeft() {
	h.t.Helper()
	if mounts := h.mountsBelow(h.dir); len(mounts) > 0 {
		h.t.Errorf("mounts are left: %v", mounts)
	}
	if devices := h.loopDevices(); len(devices) > 0 {
		h.t.Errorf("loop devices are left: %v", devices)
	}
	records, err := h.store().List(h.t.Context())
	must(h.t, err)
	if len(records) > 0 {
		h.t.Errorf("records are left: %v", records)
	}
}

func (v volume) isRecordedAt(targetPath string) bool {
	v.h.t.Helper()
	_, err := v.h.store().Get(v.h.t.Context(), targetPath)
	if err != nil && !errors.Is(err, directvolume.ErrNotFound) {
		v.h.t.Fatal(err)
	}
	return err == nil
}

func isMounted(path string) bool {
	_, err := filesystem.MountAt(path)
	return err == nil
}

func (h *host) node() *node { return h.driver.node.(serialNode).NodeServer.(*node) }

func (h *host) loops() *loop.Devices { return h.node().loops }

// setOnHost is the first step of a mount on the host.
func (h *host) setOnHost(v volume) {
	h.t.Helper()
	staged, err := h.node().staged.Get(h.t.Context(), v.id)
	must(h.t, err)
	staged.OnHost = true
	must(h.t, h.node().staged.Put(h.t.Context(), staged))
}

func lockImage(t *testing.T, path string) (unlock func()) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	must(t, err)
	must(t, unix.FcntlFlock(f.Fd(), unix.F_OFD_SETLK, &unix.Flock_t{Type: unix.F_WRLCK, Start: 100, Len: 1}))
	return func() { f.Close() }
}
