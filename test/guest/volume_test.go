package guest_test

import (
	"fmt"
	"os"
	"strings"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"google.golang.org/grpc/codes"

	"github.com/katadirect/katadirect/pkg/agent/storage"
	"github.com/katadirect/katadirect/pkg/agentproto"
	"github.com/katadirect/katadirect/pkg/runtime/qemu"
)

// The life of a volume in the guest, on each file system.
func TestBlankVolumeIsFormattedUsedGrownOnlineAndKept(t *testing.T) {
	m := theMachine(t)
	for _, fstype := range []string{"ext4", "xfs", "btrfs"} {
		t.Run(fstype, func(t *testing.T) {
			image := newImage(t, 512*mib)
			d := m.plug(t, image, false)
			st := d.storage(fstype, ifBlank...)
			c := m.running(t, st)
			c.must("echo marker > /data/marker && sync")
			before := c.must("stat -f -c '%b %S' /data; cut -d ' ' -f 22 /proc/1/stat")
			if line := c.must("grep ' /data ' /proc/mounts"); !strings.Contains(line, " "+fstype+" rw") {
				t.Errorf("the container sees %q", line)
			}
			if err := m.growVolume(t.Context(), st.MountPoint, 0); err != nil {
				t.Errorf("nothing to grow: %v", err)
			}

			d.resize(1 * gib)
			if err := m.growVolume(t.Context(), st.MountPoint, 1*gib); err != nil {
				t.Fatal(err)
			}
			after := c.must("stat -f -c '%b %S' /data; cut -d ' ' -f 22 /proc/1/stat")
			var blocksBefore, sizeBefore, blocksAfter, sizeAfter, startBefore, startAfter int64
			if _, err := fmt.Sscan(before, &blocksBefore, &sizeBefore, &startBefore); err != nil {
				t.Fatal(err)
			}
			if _, err := fmt.Sscan(after, &blocksAfter, &sizeAfter, &startAfter); err != nil {
				t.Fatal(err)
			}
			if got := blocksAfter*sizeAfter - blocksBefore*sizeBefore; got < 480*mib || startBefore != startAfter {
				t.Errorf("grown by %d bytes; started %d, then %d", got, startBefore, startAfter)
			}
			answer, err := m.stats(t, st.MountPoint)
			if err != nil {
				t.Fatal(err)
			}
			bytes := answer.GetUsage()[0]
			if bytes.GetUnit() != agentproto.VolumeUsage_BYTES || bytes.GetTotal() != uint64(blocksAfter*sizeAfter) ||
				bytes.GetAvailable() == 0 || answer.GetVolumeCondition().GetAbnormal() {
				t.Errorf("stats %v", answer)
			}
			c.must("dd if=/dev/zero of=/data/big bs=1M count=600 2>/dev/null && rm /data/big")

			// Away, and into the next container.
			if err := c.remove(); err != nil {
				t.Fatal(err)
			}
			d.unplug()
			checkClean(t, fstype, image)
			d = m.plug(t, image, false)
			c = m.running(t, d.storage(fstype, ifBlank...))
			if got := c.must("cat /data/marker"); got != "marker" {
				t.Errorf("marker %q", got)
			}
			if err := c.remove(); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestOneVolumeInTwoContainersIsMountedOnceAndCounted(t *testing.T) {
	m := theMachine(t)
	d := m.plug(t, newImage(t, 64*mib), false)
	st := d.storage("ext4", ifBlank...)
	first, second := m.running(t, st), m.running(t, st)
	first.must("echo from-first > /data/f")
	if got := second.must("cat /data/f"); got != "from-first" {
		t.Errorf("the second container reads %q", got)
	}
	if err := first.remove(); err != nil {
		t.Fatal(err)
	}
	if _, err := m.stats(t, st.MountPoint); err != nil {
		t.Errorf("after the first container: %v", err)
	}
	second.must("echo still > /data/f")
	if err := second.remove(); err != nil {
		t.Fatal(err)
	}
	_, err := m.stats(t, st.MountPoint)
	wantCode(t, err, codes.NotFound)
	d.unplug()
	checkClean(t, "ext4", d.image)
}

func TestFileSystemIsGrownWhenItIsMountedOnALargerDevice(t *testing.T) {
	m := theMachine(t)
	image := newImage(t, 64*mib)
	onHost(t, "mkfs.ext4", "-q", image)
	if err := os.Truncate(image, 256*mib); err != nil {
		t.Fatal(err)
	}
	d := m.plug(t, image, false)
	for _, tc := range []struct {
		options []string
		least   uint64
		most    uint64
	}{{nil, 40 * mib, 64 * mib}, {ifBlank, 200 * mib, 256 * mib}} {
		c := m.running(t, d.storage("ext4", tc.options...))
		answer, err := m.stats(t, d.storage("ext4").MountPoint)
		if err != nil {
			t.Fatal(err)
		}
		if total := answer.GetUsage()[0].GetTotal(); total < tc.least || total > tc.most {
			t.Errorf("options %q: %d bytes", tc.options, total)
		}
		if err := c.remove(); err != nil {
			t.Fatal(err)
		}
	}
}

func TestFSGroupIsAppliedByBothPolicies(t *testing.T) {
	m := theMachine(t)
	d := m.plug(t, newImage(t, 64*mib), false)
	mounted := func(group uint32, policy agentproto.FSGroupChangePolicy) *containerIn {
		st := d.storage("ext4", ifBlank...)
		st.FsGroup = &agentproto.FSGroup{GroupId: group, GroupChangePolicy: policy}
		return m.running(t, st)
	}
	look := func(c *containerIn, want string) {
		t.Helper()
		if got := c.must("cd /data && stat -c '%n %u %g %a' . dir dir/file"); got != want {
			t.Errorf("got:\n%s\nwant:\n%s", got, want)
		}
	}
	c := mounted(1000, agentproto.FSGroupChangePolicy_Always)
	c.must("cd /data && mkdir dir && echo x > dir/file && chmod 755 dir && chmod 640 dir/file && ln -s /etc/passwd link 2>/dev/null; true")
	if err := c.remove(); err != nil {
		t.Fatal(err)
	}
	c = mounted(1000, agentproto.FSGroupChangePolicy_OnRootMismatch)
	look(c, ". 0 1000 2775\ndir 0 1000 755\ndir/file 0 1000 640") // nothing done: the root is as it should be
	if err := c.remove(); err != nil {
		t.Fatal(err)
	}
	c = mounted(1000, agentproto.FSGroupChangePolicy_Always)
	look(c, ". 0 1000 2775\ndir 0 1000 2775\ndir/file 0 1000 660")
	if err := c.remove(); err != nil {
		t.Fatal(err)
	}
	c = mounted(2000, agentproto.FSGroupChangePolicy_OnRootMismatch)
	look(c, ". 0 2000 2775\ndir 0 2000 2775\ndir/file 0 2000 660")

	// A member of the group can write.
	process := spec("echo y > /data/dir/file && echo done").Process
	process.User = specs.User{UID: 77, GID: 77, AdditionalGids: []uint32{2000}}
	process.Capabilities = nil
	id := newID("exec")
	c.exec(id, process)
	if out, status := c.finish(id); status != 0 || out != "done\n" {
		t.Errorf("as a member of the group: %d, %s", status, out)
	}
}

func TestVolumeWhoseDeviceIsGoneIsReportedAbnormal(t *testing.T) {
	m := theMachine(t)
	d := m.plug(t, newImage(t, 64*mib), false)
	st := d.storage("ext4", ifBlank...)
	c := m.running(t, st)
	d.unplug()
	answer, err := m.stats(t, st.MountPoint)
	if err != nil {
		t.Fatal(err)
	}
	if cond := answer.GetVolumeCondition(); !cond.GetAbnormal() || !strings.Contains(cond.GetMessage(), "device is gone") {
		t.Errorf("condition %v", cond)
	}
	wantCode(t, m.growVolume(t.Context(), st.MountPoint, 128*mib), codes.NotFound, "gone")
	if err := c.remove(); err != nil {
		t.Error(err)
	}
}

func TestVolumeSurvivesTheMachinesSuddenEnd(t *testing.T) {
	image := newImage(t, 256*mib)
	first := newMachine(t, qemu.Config{})
	if err := first.createSandbox(t.Context()); err != nil {
		t.Fatal(err)
	}
	d := first.plug(t, image, false)
	c := first.running(t, d.storage("ext4", ifBlank...))
	c.must("for i in 1 2 3 4 5 6 7 8; do echo $i > /data/$i; sync; done; yes > /data/unfinished & sleep 0.3; echo")
	if err := first.stop(); err != nil { // SIGKILL for the guest
		t.Fatal(err)
	}
	m := theMachine(t)
	d = m.plug(t, image, false)
	c = m.running(t, d.storage("ext4", ifBlank...))
	if got := c.must("cat /data/1 /data/8"); got != "1\n8" {
		t.Errorf("after the crash: %q", got)
	}
	if err := c.remove(); err != nil {
		t.Fatal(err)
	}
	d.unplug()
	checkClean(t, "ext4", image)
}

func TestSCSIDisk(t *testing.T) {
	m := newMachine(t, qemu.Config{BlockDriver: qemu.VirtioSCSI})
	if err := m.createSandbox(t.Context()); err != nil {
		t.Fatal(err)
	}
	blank := m.plug(t, newImage(t, mib), true)
	err := m.tryCreate(t.Context(), newID("c"), spec("true"), blank.storage("ext4", ifBlank...))
	wantCode(t, err, codes.FailedPrecondition, storage.ErrReadOnly.Error())
	blank.unplug()
	d := m.plug(t, newImage(t, 256*mib), false)
	if d.address.Driver != "scsi" {
		t.Fatalf("address %+v", d.address)
	}
	st := d.storage("ext4", ifBlank...)
	c := m.running(t, st)
	c.must("echo x > /data/x")
	d.resize(512 * mib)
	if err := m.growVolume(t.Context(), st.MountPoint, 512*mib); err != nil {
		t.Fatal(err)
	}
	answer, err := m.stats(t, st.MountPoint)
	if err != nil || answer.GetUsage()[0].GetTotal() < 450*mib {
		t.Errorf("stats %v, %v", answer, err)
	}
	if err := c.remove(); err != nil {
		t.Fatal(err)
	}
	d.unplug()
	checkClean(t, "ext4", d.image)
}
