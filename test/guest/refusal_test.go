package guest_test

import (
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/katadirect/katadirect/pkg/agentproto"
	"github.com/katadirect/katadirect/pkg/runtime/agentclient"
)

func wantCode(t *testing.T, err error, code codes.Code, words ...string) {
	t.Helper()
	if !agentclient.IsCode(err, code) {
		t.Errorf("error %v, want code %v", err, code)
		return
	}
	for _, w := range words {
		if !strings.Contains(err.Error(), w) {
			t.Errorf("error %q does not say %q", err, w)
		}
	}
}

func TestVolumeWithSomethingElseOnItIsRefusedUntouched(t *testing.T) {
	m := theMachine(t)
	image := newImage(t, 320*mib)
	onHost(t, "mkfs.xfs", "-q", image)
	before := onHost(t, "sha256sum", image)
	d := m.plug(t, image, false)
	err := m.tryCreate(t.Context(), newID("c"), spec("true"), d.storage("ext4", ifBlank...))
	wantCode(t, err, codes.FailedPrecondition, "holds: xfs", "wanted ext4")
	d.unplug()
	if onHost(t, "sha256sum", image) != before {
		t.Error("the image was changed")
	}
}

func TestBlankVolumeIsNotFormattedUnasked(t *testing.T) {
	m := theMachine(t)
	d := m.plug(t, newImage(t, 64*mib), false)
	err := m.tryCreate(t.Context(), newID("c"), spec("true"), d.storage("ext4"))
	wantCode(t, err, codes.FailedPrecondition, "blank and may not be formatted")
}

func TestKatasCreateFilesystemNeverOverwrites(t *testing.T) {
	m := theMachine(t)
	image := newImage(t, 64*mib)
	d := m.plug(t, image, false)
	for i := range 2 {
		c := m.running(t, d.storage("ext4", "create_filesystem"))
		if i == 0 {
			c.must("echo kept > /data/file")
		}
		if got := c.must("cat /data/file"); got != "kept" {
			t.Errorf("round %d: %q", i, got)
		}
		if err := c.remove(); err != nil {
			t.Fatal(err)
		}
	}
	err := m.tryCreate(t.Context(), newID("c"), spec("true"), d.storage("ext4", "create_filesystem", "encryption_key=ephemeral"))
	wantCode(t, err, codes.InvalidArgument, "encrypted")
}

func TestFailedContainerLeavesNoMountBehind(t *testing.T) {
	m := theMachine(t)
	d := m.plug(t, newImage(t, 64*mib), false)
	good := d.storage("ext4", ifBlank...)
	bad := &agentproto.Storage{Driver: "blk", Source: "no/path", Fstype: "ext4", MountPoint: "/run/kata-containers/sandbox/storage/bad"}
	id := newID("c")
	wantCode(t, m.tryCreate(t.Context(), id, spec("true"), good, bad), codes.InvalidArgument, "PCI path")
	_, err := m.stats(t, good.MountPoint)
	wantCode(t, err, codes.NotFound)

	// crun fails, after everything was mounted.
	s := spec("true")
	s.Process.Args = []string{"/no/such/program"}
	if err := m.tryCreate(t.Context(), id, s, good); err == nil || !strings.Contains(err.Error(), "no/such/program") {
		t.Errorf("error %v, want the program's name", err)
	}
	_, err = m.stats(t, good.MountPoint)
	wantCode(t, err, codes.NotFound)

	// The id is free again, and the volume whole.
	if err := m.tryCreate(t.Context(), id, spec("true"), good); err != nil {
		t.Fatal(err)
	}
	if err := (&containerIn{t, m, id}).remove(); err != nil {
		t.Error(err)
	}
}

func TestDeviceThatIsNotThereIsWaitedForAndNamed(t *testing.T) {
	m := theMachine(t)
	st := &agentproto.Storage{Driver: "blk", Source: "02/1d", Fstype: "ext4", MountPoint: "/run/kata-containers/sandbox/storage/none"}
	began := time.Now()
	err := m.tryCreate(t.Context(), newID("c"), spec("true"), st)
	wantCode(t, err, codes.DeadlineExceeded, "02/1d", "timed out")
	if took := time.Since(began); took > 20*time.Second {
		t.Errorf("it took %v", took)
	}
}

func TestResizeSaysWhyNot(t *testing.T) {
	m := theMachine(t)
	wantCode(t, m.growVolume(t.Context(), "/no/volume", 1), codes.NotFound, "no volume is mounted there")
	wantCode(t, m.growVolume(t.Context(), "/run", 1), codes.NotFound)

	d := m.plug(t, newImage(t, 64*mib), false)
	st := d.storage("ext4", ifBlank...)
	m.running(t, st)
	began := time.Now()
	err := m.growVolume(t.Context(), st.MountPoint, 65*mib)
	wantCode(t, err, codes.DeadlineExceeded, "67108864 bytes, waiting for 68157440")
	if took := time.Since(began); took > 20*time.Second { // the agent's limit is 3
		t.Errorf("it took %v", took)
	}
	if err := m.growVolume(t.Context(), st.MountPoint, 1); err != nil {
		t.Errorf("less than the device has is no shrinking: %v", err)
	}
}

func TestReadOnlyVolume(t *testing.T) {
	m := theMachine(t)
	image := newImage(t, 64*mib)
	onHost(t, "mkfs.ext4", "-q", image)
	before := onHost(t, "sha256sum", image)
	d := m.plug(t, image, true)

	blank := m.plug(t, newImage(t, 64*mib), true)
	err := m.tryCreate(t.Context(), newID("c"), spec("true"), blank.storage("ext4", ifBlank...))
	wantCode(t, err, codes.FailedPrecondition, "read-only")

	st := d.storage("ext4", ifBlank...)
	st.Options = []string{"ro"}
	st.FsGroup = &agentproto.FSGroup{GroupId: 7}
	c := m.running(t, st)
	if out, status := c.run("touch /data/x"); status == 0 || !strings.Contains(out, "Read-only") {
		t.Errorf("write to a read-only volume: %d, %s", status, out)
	}
	answer, err := m.stats(t, st.MountPoint)
	if err != nil || answer.GetVolumeCondition().GetAbnormal() {
		t.Errorf("stats %v, %v", answer, err)
	}
	wantCode(t, m.growVolume(t.Context(), st.MountPoint, 0), codes.FailedPrecondition, "read-only")
	if err := c.remove(); err != nil {
		t.Fatal(err)
	}
	d.unplug()
	if onHost(t, "sha256sum", image) != before {
		t.Error("the image was changed")
	}
}
