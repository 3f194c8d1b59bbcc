package guest_test

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/katadirect/katadirect/internal/condition"
	"github.com/katadirect/katadirect/pkg/agentproto"
)

// writableSys runs a container that sees a volume, and the guest's own sysfs so that it can write there.
func (m *machine) writableSys(t *testing.T, st *agentproto.Storage) *containerIn {
	t.Helper()
	s := spec("exec sleep 1000000")
	for i := range s.Mounts {
		if s.Mounts[i].Destination == "/sys" {
			s.Mounts[i].Options = []string{"nosuid", "noexec", "nodev", "rw"}
		}
	}
	s.Mounts = append(s.Mounts, mountAt("/data", st.GetMountPoint()))
	return m.create(t, s, st).start()
}

// triggerError has the guest's kernel find an error in the ext4 at /data.
func (c *containerIn) triggerError() {
	c.t.Helper()
	process := spec(`disk=$(grep ' /data ' /proc/mounts | busybox cut -d ' ' -f 1); echo test > /sys/fs/ext4/${disk#/dev/}/trigger_fs_error`).Process
	admin := []string{"CAP_SYS_ADMIN", "CAP_DAC_OVERRIDE"}
	process.Capabilities = &specs.LinuxCapabilities{Bounding: admin, Effective: admin, Permitted: admin}
	id := newID("exec")
	c.exec(id, process)
	if out, status := c.finish(id); status != 0 {
		c.t.Fatalf("trigger an error: %d, %s", status, out)
	}
}

// problems are what the guest says is wrong with the volume, by reason.
func (m *machine) problems(t *testing.T, st *agentproto.Storage) map[string]string {
	t.Helper()
	answer, err := m.stats(t, st.GetMountPoint())
	if err != nil {
		t.Fatal(err)
	}
	c, found := answer.GetVolumeCondition(), map[string]string{}
	if !c.GetAbnormal() {
		if c.GetMessage() != condition.OK {
			t.Errorf("a healthy volume's condition is %q", c.GetMessage())
		}
		return found
	}
	for _, p := range condition.Parse(c.GetMessage()) {
		found[p.Reason] = p.Message
	}
	return found
}

func TestErrorsInTheFileSystemAreReportedUntilItIsChecked(t *testing.T) {
	m := theMachine(t)
	for name, tc := range map[string]struct {
		options  []string
		readOnly bool
	}{
		"and it goes on":        {nil, false},
		"and becomes read-only": {[]string{"errors=remount-ro"}, true},
	} {
		t.Run(name, func(t *testing.T) {
			image := newImage(t, 64*mib)
			d := m.plug(t, image, false)
			st := d.storage("ext4", ifBlank...)
			st.Options = tc.options
			c := m.writableSys(t, st)
			if found := m.problems(t, st); len(found) != 0 {
				t.Fatalf("a new volume: %v", found)
			}
			c.triggerError()
			found := m.problems(t, st)
			for deadline := time.Now().Add(patience); len(found) == 0 && time.Now().Before(deadline); {
				found = m.problems(t, st) // the kernel counts a moment later
			}
			if said := found[condition.FileSystemErrors]; !strings.Contains(said, "has counted ") || !strings.Contains(said, "the latest at 20") {
				t.Errorf("found %v", found)
			}
			if _, said := found[condition.ReadOnly]; said != tc.readOnly {
				t.Errorf("read-only=%t, and it says %v", tc.readOnly, found)
			}
			if _, status := c.run("echo x >/data/file"); (status != 0) != tc.readOnly {
				t.Errorf("writing ends with %d", status)
			}
			if err := c.remove(); err != nil {
				t.Fatal(err)
			}
			// The next mount checks the file system, which forgets the errors.
			c = m.running(t, st)
			if found := m.problems(t, st); len(found) != 0 {
				t.Errorf("after the check: %v", found)
			}
			c.must("echo x >/data/file")
			if err := c.remove(); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestAFileSystemThatHasShutItselfDownIsReported(t *testing.T) {
	m := theMachine(t)
	d := m.plug(t, newImage(t, 512*mib), false)
	st := d.storage("xfs", ifBlank...)
	c := m.running(t, st)
	c.must("echo x >/data/file && sync")
	d.unplug() // nothing that it writes arrives anywhere
	c.run("echo y >/data/other; sync")
	found := m.problems(t, st)
	if found[condition.DeviceGone] == "" || found[condition.Unreadable] == "" {
		t.Errorf("found %v", found)
	}
	if err := c.remove(); err != nil {
		t.Error(err)
	}
}

// A disk that rots on the host: its image lies in a btrfs, which finds out by its checksums and refuses to read.
func TestErrorsOfTheHostAreCountedAndReachTheGuest(t *testing.T) {
	m := theMachine(t)
	pattern := bytes.Repeat([]byte("rotten! "), 8192)
	pool := newImage(t, 512*mib)
	onHost(t, "mkfs.btrfs", "-q", "-d", "single", pool)
	dir := t.TempDir()
	onHost(t, "mount", "-o", "loop", pool, dir)
	image := filepath.Join(dir, "disk.img")
	if err := os.WriteFile(image, pattern, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(image, 64*mib); err != nil {
		t.Fatal(err)
	}
	onHost(t, "umount", dir)
	spoil(t, pool, []byte("rotten! rotten! rotten!"))
	onHost(t, "mount", "-o", "loop", pool, dir)
	t.Cleanup(func() { onHost(t, "umount", dir) })

	d := m.plug(t, image, false)
	t.Cleanup(d.unplug) // before the umount
	err := m.tryCreate(t.Context(), newID("c"), spec("true"), d.storage("ext4"))
	if err == nil {
		t.Fatal("a disk that cannot be read was mounted")
	}
	t.Logf("the guest: %v", err)
	for deadline := time.Now().Add(patience); m.DiskFaults(d.id).Reads == 0; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("the machine has not counted the error")
		}
	}
	if f := m.DiskFaults(d.id); f.Writes != 0 || time.Since(f.Last) > patience || f.Reason == "" {
		t.Errorf("%+v", f)
	}
	d.unplug()
	d = m.plug(t, newImage(t, mib), false)
	if f := m.DiskFaults(d.id); f.Reads != 0 {
		t.Errorf("another disk has them too: %+v", f)
	}
}

// spoil changes each occurrence of what in a file.
func spoil(t *testing.T, path string, what []byte) {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	found := 0
	for at := 0; ; at++ {
		i := bytes.Index(data[at:], what)
		if i < 0 {
			break
		}
		at += i
		found++
		if _, err := f.WriteAt([]byte("R"), int64(at)); err != nil {
			t.Fatal(err)
		}
	}
	if found == 0 {
		t.Fatalf("%q is not in %s", what, path)
	}
}
