package guest_test

import (
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"

	"github.com/katadirect/katadirect/pkg/agentproto"
)

// writer appends one number after the other to a file, each on the disk before the next, and keeps the last in
// another file outside of the volume.
const writer = `i=0; while :; do i=$((i+1)); echo $i >>/data/log; sync /data/log; echo $i >/dev/last; done`

func (m *machine) freeze(t *testing.T, path string, limit time.Duration) *agentproto.FreezeResponse {
	t.Helper()
	r, err := m.agent.Freeze(t.Context(), &agentproto.FreezeRequest{
		VolumeGuestPath: path, LimitMilliseconds: uint64(limit.Milliseconds())})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func (m *machine) thaw(t *testing.T, path string, id uint64) *agentproto.ThawResponse {
	t.Helper()
	r, err := m.agent.Thaw(t.Context(), &agentproto.ThawRequest{VolumeGuestPath: path, Id: id})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// writing runs the writer on a volume, and returns once it is under way.
func (m *machine) writing(t *testing.T, st *agentproto.Storage) *containerIn {
	t.Helper()
	s := spec(writer)
	s.Mounts = append(s.Mounts, mountAt("/data", st.GetMountPoint()))
	c := m.create(t, s, st).start()
	c.writtenAfter(0)
	return c
}

// last is the number that the writer has come to.
func (c *containerIn) last() int {
	c.t.Helper()
	n, err := strconv.Atoi(c.must("cat /dev/last 2>/dev/null || echo 0"))
	if err != nil {
		return 0 // just being written
	}
	return n
}

// writtenAfter waits for the writer to go beyond n.
func (c *containerIn) writtenAfter(n int) {
	c.t.Helper()
	for deadline := time.Now().Add(patience); c.last() <= n; time.Sleep(50 * time.Millisecond) {
		if time.Now().After(deadline) {
			c.t.Fatalf("the writer is still at %d", n)
		}
	}
}

// standsStill says what the writer has come to, twice the same.
func (c *containerIn) standsStill() int {
	c.t.Helper()
	c.last() // the number before the freeze may be on its way still
	before := c.last()
	time.Sleep(300 * time.Millisecond)
	if after := c.last(); after != before {
		c.t.Fatalf("the writer went from %d to %d on a frozen volume", before, after)
	}
	return before
}

// A copy that the host makes of a frozen volume is whole: a clean file system with all that was ever synced.
func TestACopyOfAFrozenVolumeIsWholeAndItsWriterGoesOn(t *testing.T) {
	m := theMachine(t)
	for _, fstype := range []string{"ext4", "xfs", "btrfs"} {
		t.Run(fstype, func(t *testing.T) {
			d := m.plug(t, newImage(t, 512*mib), false)
			st := d.storage(fstype, ifBlank...)
			c := m.writing(t, st)
			frozen := m.freeze(t, st.MountPoint, time.Minute)
			written := c.standsStill()
			answer, err := m.agent.List(t.Context(), &agentproto.ListRequest{})
			if err != nil {
				t.Fatal(err)
			}
			if got := answer.GetVolumes(); len(got) != 1 || got[0].GetFrozenMilliseconds() == 0 || got[0].GetFstype() != fstype ||
				!strings.HasPrefix(got[0].GetDevice(), "/dev/vd") || got[0].GetDeviceBytes() != 512*mib {
				t.Errorf("listed %v", got)
			}
			if _, err := m.stats(t, st.MountPoint); err != nil {
				t.Errorf("stats of a frozen volume: %v", err)
			}
			wantCode(t, m.growVolume(t.Context(), st.MountPoint, 0), codes.Aborted)

			image := filepath.Join(t.TempDir(), "copy.img")
			onHost(t, "cp", "--sparse=always", d.image, image)
			if r := m.thaw(t, st.MountPoint, frozen.GetId()); !r.GetWasFrozen() || r.GetFrozenMicroseconds() < 300_000 {
				t.Fatalf("thaw: %v", r)
			}
			c.writtenAfter(written)
			if err := c.remove(); err != nil {
				t.Fatal(err)
			}
			d.unplug()

			if fstype == "ext4" {
				onHost(t, "e2fsck", "-f", "-n", image) // with nothing in its journal to replay
			}
			lines := linesOf(t, image, fstype)
			if n := len(lines); n < written || n > written+1 {
				t.Errorf("the copy has %d numbers, %d were written", n, written)
			}
			for i, line := range lines {
				if line != strconv.Itoa(i+1) {
					t.Fatalf("number %d is %q", i+1, line)
				}
			}
		})
	}
}

// linesOf mounts a copy on the host and reads the writer's log.
func linesOf(t *testing.T, image, fstype string) []string {
	t.Helper()
	dir := t.TempDir()
	onHost(t, "mount", "-o", "loop", "-t", fstype, image, dir)
	defer onHost(t, "umount", dir)
	text := onHost(t, "cat", filepath.Join(dir, "log"))
	return strings.Fields(text)
}

func TestAFrozenVolumeThawsByItselfInTheGuest(t *testing.T) {
	m := theMachine(t)
	d := m.plug(t, newImage(t, 128*mib), false)
	st := d.storage("ext4", ifBlank...)
	c := m.writing(t, st)

	t.Run("when its time is over", func(t *testing.T) {
		frozen := m.freeze(t, st.MountPoint, 10*time.Second) // with what is to be written out first
		c.writtenAfter(c.last() + 1)
		if r := m.thaw(t, st.MountPoint, frozen.GetId()); r.GetWasFrozen() || !strings.Contains(r.GetEnded(), "time limit") {
			t.Errorf("thaw: %v", r)
		}
	})
	t.Run("when the host hangs up", func(t *testing.T) {
		frozen := m.freeze(t, st.MountPoint, time.Minute)
		began := time.Now()
		m.agent.Close()
		if err := m.dial(t.Context()); err != nil {
			t.Fatal(err)
		}
		c.writtenAfter(c.last())
		if r := m.thaw(t, st.MountPoint, frozen.GetId()); r.GetWasFrozen() || !strings.Contains(r.GetEnded(), "hung up") {
			t.Errorf("after %v, thaw: %v", time.Since(began), r)
		}
	})
	t.Run("two at the same time", func(t *testing.T) {
		ids := make(chan uint64, 2)
		for range 2 {
			go func() {
				r, err := m.agent.Freeze(t.Context(), &agentproto.FreezeRequest{VolumeGuestPath: st.MountPoint, LimitMilliseconds: 30000})
				if err != nil {
					t.Error(err)
				}
				ids <- r.GetId()
			}()
		}
		if a, b := <-ids, <-ids; a != b {
			t.Errorf("one volume has the freezes %d and %d", a, b)
		}
		if first, second := m.thaw(t, st.MountPoint, 0), m.thaw(t, st.MountPoint, 0); !first.GetWasFrozen() || second.GetWasFrozen() {
			t.Errorf("thaw: %v, then %v", first, second)
		}
		c.writtenAfter(c.last())
	})
	t.Run("when its container is killed", func(t *testing.T) {
		frozen := m.freeze(t, st.MountPoint, time.Minute)
		_, err := m.agent.SignalProcess(t.Context(), &agentproto.SignalProcessRequest{ContainerId: c.id, Signal: uint32(unix.SIGKILL)})
		if err != nil {
			t.Fatal(err)
		}
		if status := c.wait(c.id); status != 137 {
			t.Errorf("status %d", status)
		}
		if r := m.thaw(t, st.MountPoint, frozen.GetId()); r.GetWasFrozen() || !strings.Contains(r.GetEnded(), "killed") {
			t.Errorf("thaw: %v", r)
		}
		if err := c.remove(); err != nil {
			t.Fatal(err)
		}
		_, err = m.agent.Thaw(t.Context(), &agentproto.ThawRequest{VolumeGuestPath: st.MountPoint, Id: frozen.GetId()})
		wantCode(t, err, codes.NotFound)
	})
	d.unplug()
	checkClean(t, "ext4", d.image)
}

func TestWhatCannotBeFrozenIsRefusedByTheAgent(t *testing.T) {
	m := theMachine(t)
	image := newImage(t, 64*mib)
	onHost(t, "mkfs.ext4", "-q", image)
	d := m.plug(t, image, true)
	st := d.storage("ext4")
	st.Options = []string{"ro"}
	c := m.running(t, st)
	for path, want := range map[string]codes.Code{
		st.MountPoint:          codes.FailedPrecondition, // read-only
		"/":                    codes.NotFound,
		"/run/kata-containers": codes.NotFound,
		"":                     codes.NotFound,
	} {
		_, err := m.agent.Freeze(t.Context(), &agentproto.FreezeRequest{VolumeGuestPath: path, LimitMilliseconds: 1000})
		wantCode(t, err, want)
	}
	_, err := m.agent.Freeze(t.Context(), &agentproto.FreezeRequest{VolumeGuestPath: st.MountPoint, LimitMilliseconds: 1 << 63})
	wantCode(t, err, codes.InvalidArgument)
	if err := c.remove(); err != nil {
		t.Error(err)
	}
}
