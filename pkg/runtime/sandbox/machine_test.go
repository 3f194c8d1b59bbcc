package sandbox

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/katadirect/katadirect/pkg/directvolume"
	"github.com/katadirect/katadirect/pkg/runtime/vm"
	"github.com/katadirect/katadirect/pkg/runtime/volume"
)

func TestAVolumeFromRecordToGuestAndBackInARealMachine(t *testing.T) {
	h := newMachineHost(t)
	s := h.create()
	data, sleep := h.blank("v", 1<<30), []string{"sleep", "100000"}
	client := directvolume.NewClient("s1", directvolume.WithClientSandboxes(h.roots.sandboxes()))
	device := h.dir + "/pool/v"

	t.Run("a container writes to it", func(t *testing.T) {
		start(t, s, h.busybox("c1", sleep, data, bind(h.file("hosts", "10.0.0.1 pod\n"), "/etc/hosts")))
		if out, status := run(t, s, "c1", "sh", "-c", "echo marker > /data/f && sync && cat /etc/hosts"); status != 0 || out != "10.0.0.1 pod\n" {
			t.Fatalf("%d %q", status, out)
		}
		if out, _ := run(t, s, "c1", "mount"); !strings.Contains(out, "/dev/vda on /data type ext4 (rw") {
			t.Errorf("mounts %s", out)
		}
	})
	t.Run("a second one reads it, read-only, through the same disk", func(t *testing.T) {
		readOnly := data
		readOnly.Options = []string{"rbind", "rprivate", "ro"}
		start(t, s, h.busybox("c2", sleep, readOnly))
		if out, status := run(t, s, "c2", "cat", "/data/f"); status != 0 || out != "marker\n" {
			t.Errorf("%d %q", status, out)
		}
		if out, status := run(t, s, "c2", "sh", "-c", "echo x > /data/f"); status == 0 || !strings.Contains(out, "Read-only") {
			t.Errorf("writing gave %d %q", status, out)
		}
		if got := s.volumes.List(); len(got) != 1 || len(got[0].Containers) != 2 {
			t.Errorf("volumes %+v", got)
		}
	})
	t.Run("it grows while both use it", func(t *testing.T) {
		before := kilobytes(t, s, "c1")
		if err := client.Resize(t.Context(), device, 2<<30); err != nil {
			t.Fatal(err)
		}
		for _, c := range []string{"c1", "c2"} {
			if after := kilobytes(t, s, c); before > 1<<20 || after < 1900<<10 {
				t.Errorf("%s: %d KiB before, %d after", c, before, after)
			}
		}
		if err := client.Resize(t.Context(), device, 1<<30); err == nil || !strings.Contains(err.Error(), vm.ErrShrink.Error()) {
			t.Errorf("shrinking: %v", err)
		}
	})
	t.Run("its stats are the guest's", func(t *testing.T) {
		stats, err := client.Stats(t.Context(), device)
		if err != nil {
			t.Fatal(err)
		}
		if size, _ := stats.Of(directvolume.UnitBytes); size.Total < 1900<<20 || stats.Condition.Abnormal {
			t.Errorf("stats %+v", stats)
		}
		if inodes, ok := stats.Of(directvolume.UnitInodes); !ok || inodes.Used == 0 {
			t.Errorf("stats %+v", stats)
		}
		if _, err := client.Stats(t.Context(), "/dev/null"); err == nil || !strings.Contains(err.Error(), "not found in sandbox") {
			t.Errorf("of an unknown device: %v", err)
		}
	})
	t.Run("it stays while one of them is left, and between two", func(t *testing.T) {
		for _, c := range []string{"c1", "c2"} {
			if err := s.RemoveContainer(t.Context(), c); err != nil {
				t.Fatal(err)
			}
		}
		if err := client.Resize(t.Context(), device, 3<<30); err != nil {
			t.Errorf("resize of an idle volume: %v", err)
		}
		if _, err := client.Stats(t.Context(), device); err == nil || !strings.Contains(err.Error(), volume.ErrNotMounted.Error()) {
			t.Errorf("stats of an idle volume: %v", err)
		}
		start(t, s, h.busybox("c3", sleep, data))
		if out, status := run(t, s, "c3", "cat", "/data/f"); status != 0 || out != "marker\n" {
			t.Errorf("%d %q", status, out)
		}
		if size := kilobytes(t, s, "c3"); size < 2900<<10 {
			t.Errorf("%d KiB after growing between two containers", size)
		}
	})
	t.Run("a bad record fails its container only", func(t *testing.T) {
		bad := h.blank("bad", 1<<30)
		files, err := filepath.Glob(h.roots.Records + "/*/mountInfo.json")
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range files {
			if text, _ := os.ReadFile(f); bytes.Contains(text, []byte("/pool/bad")) {
				if err := os.Truncate(f, 20); err != nil {
					t.Fatal(err)
				}
			}
		}
		if err := s.CreateContainer(t.Context(), h.busybox("c4", sleep, bad)); !errors.Is(err, directvolume.ErrInvalid) {
			t.Errorf("error %v", err)
		}
		if _, status := run(t, s, "c3", "true"); status != 0 {
			t.Errorf("the container beside it: %d", status)
		}
	})
	t.Run("a device that is not what the record says fails in the guest with the reason, and leaves nothing", func(t *testing.T) {
		xfs := h.blank("xfs", 1<<30)
		if out, err := exec.Command("mkfs.xfs", "-q", h.dir+"/pool/xfs").CombinedOutput(); err != nil {
			t.Fatalf("%v %s", err, out)
		}
		err := s.CreateContainer(t.Context(), h.busybox("c5", sleep, xfs))
		if err == nil || !strings.Contains(err.Error(), "agent: CreateContainer") {
			t.Errorf("error %v", err)
		}
		if entries, err := os.ReadDir(h.roots.Share + "/s1/mounts"); err != nil || len(entries) != 2 {
			t.Errorf("shared %v, %v; want only c3's, and the folder for copies", entries, err)
		}
	})

	if err := s.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	h.nothingLeft()
	// The data is what the guest wrote, on a clean file system. Nothing on the host mounts it.
	if out, err := exec.Command("e2fsck", "-fn", device).CombinedOutput(); err != nil {
		t.Errorf("e2fsck: %v\n%s", err, out)
	}
	if out, err := exec.Command("debugfs", "-R", "cat /f", device).Output(); err != nil || string(out) != "marker\n" {
		t.Errorf("on the disk: %q, %v", out, err)
	}
}

func TestAFrozenGuestIsKilledAndEverythingIsGivenBack(t *testing.T) {
	h := newMachineHost(t)
	h.options.times = times{checkPeriod: 100 * time.Millisecond, checkDeadline: 5 * time.Second, guestEnd: 3 * time.Second, settle: 2 * time.Second}
	s := h.create()
	start(t, s, h.busybox("c1", []string{"sleep", "100000"}, h.blank("v", 1<<30)))
	waited := make(chan error)
	go func() {
		_, err := s.Wait(t.Context(), "c1", "")
		waited <- err
	}()
	if err := syscall.Kill(s.PID(), syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	select {
	case <-s.Done():
	case <-time.After(5 * time.Minute): // a busy host is an excuse for maxStarved deadlines
		t.Fatal("the frozen guest was not noticed")
	}
	if err := <-waited; err == nil {
		t.Error("the container's end was reported as an exit")
	}
	if err := s.Err(); err == nil || !strings.Contains(err.Error(), "guest is dead") {
		t.Errorf("reason %v", err)
	}
	if err := s.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	h.nothingLeft()
}
