package guest_test

import (
	"context"
	"encoding/base64"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/katadirect/katadirect/pkg/agentproto"
	"github.com/katadirect/katadirect/pkg/runtime/vm"
)

const (
	mib = 1 << 20
	gib = 1 << 30
)

// disk is an image on the host that is plugged into a machine.
type disk struct {
	t       *testing.T
	m       *machine
	id      string
	image   string
	address vm.DiskAddress
}

// newImage makes a sparse image file.
func newImage(t *testing.T, size int64) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "disk.img")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := f.Truncate(size); err != nil {
		t.Fatal(err)
	}
	return path
}

// plug hot-plugs an image until the test's end.
func (m *machine) plug(t *testing.T, image string, readOnly bool) *disk {
	t.Helper()
	d := &disk{t: t, m: m, id: newID("d"), image: image}
	var err error
	if d.address, err = m.PlugDisk(t.Context(), vm.Disk{ID: d.id, Path: image, ReadOnly: readOnly}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(d.unplug)
	return d
}

// unplug takes the disk out. It may be called again.
func (d *disk) unplug() {
	d.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if err := d.m.UnplugDisk(ctx, d.id); err != nil && !errors.Is(err, vm.ErrGone) {
		d.t.Error(err)
	}
}

func (d *disk) resize(size int64) {
	d.t.Helper()
	if err := d.m.ResizeDisk(d.t.Context(), d.id, size); err != nil {
		d.t.Fatal(err)
	}
}

// storage is the message that a shim sends for the disk.
func (d *disk) storage(fstype string, driverOptions ...string) *agentproto.Storage {
	return &agentproto.Storage{
		Driver: d.address.Driver, Source: d.address.Source, Fstype: fstype, DriverOptions: driverOptions,
		// As Kata's shims name it; the slot may have been another disk's before.
		MountPoint: "/run/kata-containers/sandbox/storage/" + base64.URLEncoding.EncodeToString([]byte(d.address.Source)),
	}
}

// ifBlank is what a shim of this project adds.
var ifBlank = []string{"katadirect.io/format=if-blank", "katadirect.io/grow=on-mount"}

// onHost runs a program of the host.
func onHost(t *testing.T, name string, args ...string) string {
	t.Helper()
	out, err := exec.Command(name, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return string(out)
}

// checkClean has the host's own tools check an image that is in no machine.
func checkClean(t *testing.T, fstype, image string) {
	t.Helper()
	switch fstype {
	case "ext4":
		onHost(t, "e2fsck", "-f", "-n", image)
	case "xfs":
		onHost(t, "xfs_repair", "-n", "-f", image)
	case "btrfs":
		onHost(t, "btrfs", "check", "--readonly", image)
	}
}

func (m *machine) stats(t *testing.T, path string) (*agentproto.VolumeStatsResponse, error) {
	t.Helper()
	return m.agent.GetVolumeStats(t.Context(), &agentproto.VolumeStatsRequest{VolumeGuestPath: path})
}

func (m *machine) growVolume(ctx context.Context, path string, size uint64) error {
	_, err := m.agent.ResizeVolume(ctx, &agentproto.ResizeVolumeRequest{VolumeGuestPath: path, Size: size})
	return err
}
