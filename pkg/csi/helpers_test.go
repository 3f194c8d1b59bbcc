package csi

import (
	"bytes"
	"context"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	"github.com/katadirect/katadirect/pkg/csi/mode"
	"github.com/katadirect/katadirect/pkg/directvolume"
)

const gib = int64(1) << 30

// host is a node: a driver served on a unix socket, kubelet's folders, records and sandboxes, all below one folder.
type host struct {
	t      *testing.T
	dir    string
	log    *bytes.Buffer
	driver *Driver
	stop   func()

	// cluster, if not nil, is what Kubernetes knows, from the next start on.
	cluster lookups

	maxVolumes int // for start

	csi.IdentityClient
	csi.ControllerClient
	csi.GroupControllerClient
	csi.NodeClient
}

func newHost(t *testing.T, prepare ...func(*host)) *host {
	t.Helper()
	// Sockets have short paths, and those of sandboxes contain their ids.
	dir, err := os.MkdirTemp("", "kd")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	h := &host{t: t, dir: dir, log: &bytes.Buffer{}}
	for _, prepare := range prepare {
		prepare(h)
	}
	h.start()
	t.Cleanup(func() { h.stop() })
	return h
}

// start starts the driver; restart ends it and starts another one on the same state.
func (h *host) start() {
	h.t.Helper()
	var log io.Writer = &lockedWriter{to: h.log}
	driver, err := Open(h.t.Context(), Config{
		NodeID:     "node-1",
		PoolDir:    h.path("pool"),
		RecordRoot: h.path("records"),
		StateDir:   h.path("state"),
		Machines:   mode.DefaultMachines,
		lookups:    h.cluster,
		Sandboxes:  h.sandboxes(),
		MaxVolumes: h.maxVolumes,
		Log:        slog.New(slog.NewTextHandler(log, &slog.HandlerOptions{Level: slog.LevelDebug})),
	})
	if err != nil {
		h.t.Fatal(err)
	}
	listener, err := Listen(h.t.Context(), "unix://"+h.path("csi.sock"))
	if err != nil {
		h.t.Fatal(err)
	}
	conn, err := grpc.NewClient("unix://"+h.path("csi.sock"), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		h.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- driver.Serve(ctx, listener) }()
	h.driver = driver
	h.stop = sync.OnceFunc(func() {
		conn.Close()
		cancel()
		if err := <-ended; err != nil {
			h.t.Error(err)
		}
		if err := driver.Close(); err != nil {
			h.t.Error(err)
		}
	})
	h.IdentityClient, h.ControllerClient, h.NodeClient =
		csi.NewIdentityClient(conn), csi.NewControllerClient(conn), csi.NewNodeClient(conn)
	h.GroupControllerClient = csi.NewGroupControllerClient(conn)
}

func (h *host) restart() {
	h.t.Helper()
	h.stop()
	h.start()
}

func (h *host) path(names ...string) string {
	return filepath.Join(append([]string{h.dir}, names...)...)
}

func (h *host) sandboxes() directvolume.Sandboxes {
	return directvolume.Sandboxes{GoDir: h.path("sbs"), RustDir: h.path("rust")}
}

func (h *host) store() *directvolume.Store {
	return directvolume.NewStore(h.path("records"), directvolume.WithSandboxes(h.sandboxes()))
}

// staging and target are where kubelet would have them; target makes the folder that the target is to be in.
func (h *host) staging(id string) string { return h.path("staging", id) }

func (h *host) target(pod string) string {
	h.t.Helper()
	if err := os.MkdirAll(h.path("pods", pod), 0o750); err != nil {
		h.t.Fatal(err)
	}
	return h.path("pods", pod, "mount")
}

// capability is that of a ReadWriteOncePod ext4 volume, changed by the options.
func capability(change ...func(*csi.VolumeCapability)) *csi.VolumeCapability {
	c := &csi.VolumeCapability{
		AccessType: &csi.VolumeCapability_Mount{Mount: &csi.VolumeCapability_MountVolume{FsType: "ext4"}},
		AccessMode: &csi.VolumeCapability_AccessMode{Mode: csi.VolumeCapability_AccessMode_SINGLE_NODE_SINGLE_WRITER},
	}
	for _, f := range change {
		f(c)
	}
	return c
}

func withMode(mode csi.VolumeCapability_AccessMode_Mode) func(*csi.VolumeCapability) {
	return func(c *csi.VolumeCapability) { c.AccessMode.Mode = mode }
}

func withFS(fsType string) func(*csi.VolumeCapability) {
	return func(c *csi.VolumeCapability) { c.GetMount().FsType = fsType }
}

func withFlags(flags ...string) func(*csi.VolumeCapability) {
	return func(c *csi.VolumeCapability) { c.GetMount().MountFlags = flags }
}

func withGroup(group string) func(*csi.VolumeCapability) {
	return func(c *csi.VolumeCapability) { c.GetMount().VolumeMountGroup = group }
}

func asBlock(c *csi.VolumeCapability) {
	c.AccessType = &csi.VolumeCapability_Block{Block: &csi.VolumeCapability_BlockVolume{}}
}

func createRequest(name string, sizeBytes int64, change ...func(*csi.VolumeCapability)) *csi.CreateVolumeRequest {
	return &csi.CreateVolumeRequest{
		Name:               name,
		CapacityRange:      &csi.CapacityRange{RequiredBytes: sizeBytes},
		VolumeCapabilities: []*csi.VolumeCapability{capability(change...)},
	}
}

// volume is a volume that a test has made, and how it uses it.
type volume struct {
	h       *host
	id      string
	context map[string]string
	cap     *csi.VolumeCapability
}

func (h *host) create(name string, change ...func(*csi.VolumeCapability)) volume {
	h.t.Helper()
	r := createRequest(name, gib, change...)
	made, err := h.CreateVolume(h.t.Context(), r)
	if err != nil {
		h.t.Fatal(err)
	}
	return volume{h: h, id: made.GetVolume().GetVolumeId(), context: made.GetVolume().GetVolumeContext(), cap: r.VolumeCapabilities[0]}
}

func (v volume) image() string { return v.h.path("pool", v.id, "disk.img") }

func (v volume) stage() error {
	_, err := v.h.NodeStageVolume(v.h.t.Context(), &csi.NodeStageVolumeRequest{
		VolumeId: v.id, StagingTargetPath: v.h.staging(v.id), VolumeCapability: v.cap, VolumeContext: v.context,
	})
	return err
}

func (v volume) unstage() error {
	_, err := v.h.NodeUnstageVolume(v.h.t.Context(), &csi.NodeUnstageVolumeRequest{
		VolumeId: v.id, StagingTargetPath: v.h.staging(v.id),
	})
	return err
}

func (v volume) publishRequest(targetPath string) *csi.NodePublishVolumeRequest {
	return &csi.NodePublishVolumeRequest{
		VolumeId: v.id, StagingTargetPath: v.h.staging(v.id), TargetPath: targetPath,
		VolumeCapability: v.cap, VolumeContext: v.context,
	}
}

func (v volume) publish(targetPath string) error {
	_, err := v.h.NodePublishVolume(v.h.t.Context(), v.publishRequest(targetPath))
	return err
}

func (v volume) unpublish(targetPath string) error {
	_, err := v.h.NodeUnpublishVolume(v.h.t.Context(), &csi.NodeUnpublishVolumeRequest{VolumeId: v.id, TargetPath: targetPath})
	return err
}

func (v volume) delete() error {
	_, err := v.h.DeleteVolume(v.h.t.Context(), &csi.DeleteVolumeRequest{VolumeId: v.id})
	return err
}

func (v volume) expand(ctx context.Context, path string, sizeBytes int64) (int64, error) {
	r, err := v.h.NodeExpandVolume(ctx, &csi.NodeExpandVolumeRequest{
		VolumeId: v.id, VolumePath: path, StagingTargetPath: v.h.staging(v.id), VolumeCapability: v.cap,
		CapacityRange: &csi.CapacityRange{RequiredBytes: sizeBytes},
	})
	return r.GetCapacityBytes(), err
}

func (v volume) stats(path string) ([]*csi.VolumeUsage, error) {
	r, err := v.h.NodeGetVolumeStats(v.h.t.Context(), &csi.NodeGetVolumeStatsRequest{VolumeId: v.id, VolumePath: path})
	return r.GetUsage(), err
}

// published makes a volume and publishes it for a pod.
func (h *host) published(name string, change ...func(*csi.VolumeCapability)) (volume, string) {
	h.t.Helper()
	v, target := h.create(name, change...), h.target(name)
	must(h.t, v.stage())
	must(h.t, v.publish(target))
	return v, target
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// refused checks an error's code, and that its text has all the words.
func refused(t *testing.T, err error, code codes.Code, words ...string) {
	t.Helper()
	if got := status.Code(err); got != code {
		t.Errorf("got %v (%v), want %v", got, err, code)
		return
	}
	for _, word := range words {
		if !strings.Contains(status.Convert(err).Message(), word) {
			t.Errorf("the error does not say %q: %v", word, err)
		}
	}
}

type lockedWriter struct {
	mu sync.Mutex
	to io.Writer
}

func (w *lockedWriter) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.to.Write(p)
}

func writeFile(t *testing.T, path, data string) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	must(t, err)
	defer f.Close()
	_, err = f.WriteAt([]byte(data), 0)
	must(t, err)
}

func readFile(t *testing.T, path string, length int) string {
	t.Helper()
	f, err := os.Open(path)
	must(t, err)
	defer f.Close()
	data := make([]byte, length)
	_, err = f.ReadAt(data, 0)
	must(t, err)
	return string(data)
}

func fileSize(t *testing.T, path string) int64 {
	t.Helper()
	info, err := os.Stat(path)
	must(t, err)
	return info.Size()
}
