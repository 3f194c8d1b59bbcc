package csi

import (
	"context"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/katadirect/katadirect/pkg/csi/mode"
	"github.com/katadirect/katadirect/pkg/directvolume"
)

// Of a volume whose description is lost, the image is all that somebody who saves its data has, by way of a loop device
// or a record.
func TestADamagedVolumeInUseIsNotDeleted(t *testing.T) {
	h := newBlockHost(t)
	v := h.create("data")
	writeFile(t, v.image(), "precious")
	must(t, os.WriteFile(h.path("pool", v.id, "volume.json"), []byte("rust"), 0o600))
	h.restart()

	out, err := exec.Command("losetup", "--find", "--show", v.image()).Output()
	must(t, err)
	device := strings.TrimSpace(string(out))
	refused(t, v.delete(), codes.FailedPrecondition, device)
	must(t, exec.Command("losetup", "--detach", device).Run())

	target := h.target("rescue")
	must(t, os.Mkdir(target, 0o750))
	must(t, h.store().Add(t.Context(), target, directvolume.Record{
		VolumeType: directvolume.VolumeTypeDirect, Device: v.image(), FSType: "ext4",
	}))
	refused(t, v.delete(), codes.FailedPrecondition, target)
	if got := readFile(t, v.image(), 8); got != "precious" {
		t.Errorf("the image holds %q", got)
	}
	must(t, h.store().Remove(t.Context(), target))
	must(t, v.delete())
}

// kubelet binds subPaths at places of their own, and may have to leave one behind.
func TestAnInlineVolumeThatIsStillMountedSomewhereKeepsItsData(t *testing.T) {
	h, cluster := newModesHost(t)
	cluster.classOf["pod"] = ""
	i := h.inline("pod-1")
	must(t, i.publish(mode.Key, "auto"))
	must(t, os.WriteFile(filepath.Join(i.target, "file"), []byte("text"), 0o600))
	other := h.path("subpath")
	must(t, os.Mkdir(other, 0o750))
	must(t, unix.Mount(i.target, other, "", unix.MS_BIND, ""))
	t.Cleanup(func() { _ = unix.Unmount(other, unix.MNT_DETACH) })
	for range 2 {
		refused(t, i.unpublish(), codes.FailedPrecondition, other)
		if _, err := i.volume(); err != nil {
			t.Fatalf("the volume is gone: %v", err)
		}
	}
	must(t, unix.Unmount(other, 0))
	must(t, i.unpublish())
	i.gone()
	h.nothingLeft()
}

// Nodes see many pods, and what is known of their inline volumes must not stay behind.
func TestWhatAGuestSaidOfAnInlineVolumeGoesWithIt(t *testing.T) {
	h := newHost(t)
	i := h.inline("pod")
	must(t, i.publish())
	v, err := i.volume()
	must(t, err)
	views := h.driver.checkup.views
	views.Look(t.Context(), v.ID, "sandbox", func(context.Context) (directvolume.VolumeStats, error) {
		return directvolume.VolumeStats{}, nil
	})
	if !views.NoMachine(v.ID).Known() {
		t.Fatal("nothing is known of the volume in its life")
	}
	must(t, i.unpublish())
	if views.NoMachine(v.ID).Known() {
		t.Error("it is known still")
	}
}

// A caller may go on after ABORTED and UNAVAILABLE; after INTERNAL external-provisioner gives the volume up.
func TestACopyThatEndsEarlySaysThatItCanBeRepeated(t *testing.T) {
	work := func(ctx context.Context, _ func()) error {
		<-ctx.Done()
		return context.Cause(ctx)
	}
	for name, test := range map[string]struct {
		end  func(j *jobs)
		code codes.Code
	}{
		"deleted":         {func(j *jobs) { _ = j.stop(t.Context(), "id") }, codes.Aborted},
		"the driver ends": {func(j *jobs) { j.close() }, codes.Unavailable},
	} {
		t.Run(name, func(t *testing.T) {
			j := newJobs(&locks{}, slog.New(slog.DiscardHandler))
			defer j.close()
			one, err := j.start("id", "request", nil, work)
			must(t, err)
			test.end(j)
			if err := toStatus(one.wait(t.Context())); status.Code(err) != test.code {
				t.Errorf("got %v", err)
			}
		})
	}
}

// The tokens stand in the volume context, of which csi.proto does not say that it holds secrets.
func TestTokensOfPodsNeverReachTheLog(t *testing.T) {
	h := newHost(t)
	i := h.inline("pod")
	must(t, i.publish(tokensKey, `{"":{"token":"s3cret"}}`))
	h.stop()
	if strings.Contains(h.log.String(), "s3cret") || !strings.Contains(h.log.String(), tokensKey) {
		t.Error("the log has the token")
	}
}

// A deletion that fails half way is repeated with all ids that the caller knows of.
func TestAGroupIsDeletedToItsEndAfterAFailure(t *testing.T) {
	h := newHost(t)
	one, other := h.create("one"), h.create("other")
	request := &csi.CreateVolumeGroupSnapshotRequest{Name: "group", SourceVolumeIds: []string{one.id, other.id}}
	made, err := h.CreateVolumeGroupSnapshot(t.Context(), request)
	must(t, err)
	g := made.GetGroupSnapshot()
	var ids []string
	for _, s := range g.GetSnapshots() {
		ids = append(ids, s.GetSnapshotId())
	}
	must(t, os.WriteFile(h.path("pool", ids[0], "notes.txt"), nil, 0o600)) // nothing of this driver's, so it cannot be removed
	remove := func() error {
		_, err := h.DeleteVolumeGroupSnapshot(t.Context(), &csi.DeleteVolumeGroupSnapshotRequest{
			GroupSnapshotId: g.GetGroupSnapshotId(), SnapshotIds: ids,
		})
		return err
	}
	if err := remove(); err == nil {
		t.Fatal("a member's folder was removed with a file in it that is none of the driver's")
	}
	_, err = h.CreateVolumeGroupSnapshot(t.Context(), request)
	refused(t, err, codes.AlreadyExists, "not whole")
	must(t, remove())
	_, err = h.GetVolumeGroupSnapshot(t.Context(), &csi.GetVolumeGroupSnapshotRequest{GroupSnapshotId: g.GetGroupSnapshotId()})
	refused(t, err, codes.NotFound)
}
