package cri

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"testing"

	"github.com/google/uuid"

	"github.com/katadirect/katadirect/internal/kubelet"
	"github.com/katadirect/katadirect/internal/lab"
	"github.com/katadirect/katadirect/test/artifacts"
)

// podWithVolume runs a pod for which the volume is published.
func podWithVolume(t *testing.T, n *kubelet.Node, v *kubelet.Volume, name string) (*lab.Pod, lab.Mount) {
	t.Helper()
	uid := uuid.NewString()
	mount := publish(t, n, v, uid)
	pod, err := n.Lab.RunPod(t.Context(), lab.PodSpec{Name: name, Handler: kubelet.Handler, UID: uid})
	if err != nil {
		t.Fatal(err)
	}
	return pod, mount
}

func TestContainersOfAPodShareOneMountOfTheVolume(t *testing.T) {
	eachContainerd(t, func(t *testing.T, n *kubelet.Node) {
		v := volume(t, n, "ext4")
		pod, mount := podWithVolume(t, n, v, "pod")

		// An init container comes and goes first: the volume must outlive it.
		first := run(t, pod, "init", "echo prepared >/data/state", mount)
		if code, err := first.Wait(t.Context()); err != nil || code != 0 {
			t.Fatalf("the init container ended with %d, %v", code, err)
		}
		one, two := run(t, pod, "one", idle, mount), run(t, pod, "two", idle, mount)
		if err := first.Remove(t.Context()); err != nil {
			t.Fatal(err)
		}
		if got := exec(t, one, "cat /data/state"); got != "prepared\n" {
			t.Errorf("after the init container the volume holds %q", got)
		}
		exec(t, one, "echo shared >/data/file")
		if got := exec(t, two, "cat /data/file"); got != "shared\n" {
			t.Errorf("the second container reads %q", got)
		}
		const device = `awk '$2 == "/data" {print $1, $3}' /proc/mounts; stat -c %d /data`
		if a, b := exec(t, one, device), exec(t, two, device); a != b || !strings.Contains(a, "/dev/vd") {
			t.Errorf("the containers see two devices: %q and %q", a, b)
		}
		// The one that stays keeps the volume when the other goes.
		if err := one.Stop(t.Context(), 20); err != nil {
			t.Error(err)
		}
		if err := one.Remove(t.Context()); err != nil {
			t.Error(err)
		}
		exec(t, two, "echo still >/data/file && sync && cat /data/file")
		removePod(t, pod)
	})
}

func TestAVolumeGrowsInUseAndKeepsItsData(t *testing.T) {
	n := artifacts.Node(t, lab.Debian)
	for _, fsType := range []string{"ext4", "xfs"} {
		t.Run(fsType, func(t *testing.T) {
			v := volume(t, n, fsType)
			pod, mount := podWithVolume(t, n, v, "first")
			c := run(t, pod, "app", idle, mount)
			exec(t, c, "seq 1 100000 >/data/numbers && sync")
			before := dataSize(t, c)
			for _, size := range []int64{2 * gibibyte, 3 * gibibyte} {
				if err := v.Expand(t.Context(), pod.UID, size); err != nil {
					t.Fatal(err)
				}
				after := dataSize(t, c)
				if after <= before || after > size || after < size*9/10 {
					t.Errorf("df says %d bytes after the expansion to %d, %d before", after, size, before)
				}
				usage, err := v.Stats(t.Context(), pod.UID)
				if err != nil || usage.Total != after {
					t.Errorf("NodeGetVolumeStats says %+v, %v, df in the guest %d", usage, err, after)
				}
				before = after
			}
			if err := v.Expand(t.Context(), pod.UID, 3*gibibyte); err != nil {
				t.Errorf("the same expansion again: %v", err)
			}
			removePod(t, pod)
			if err := v.Unpublish(t.Context(), pod.UID); err != nil {
				t.Fatal(err)
			}

			pod, mount = podWithVolume(t, n, v, "second")
			c = run(t, pod, "app", idle, mount)
			if got := exec(t, c, "cat /data/numbers"); got != lines(100000) {
				t.Errorf("the next pod reads %d bytes of %d", len(got), len(lines(100000)))
			}
			if got := dataSize(t, c); got != before {
				t.Errorf("the next pod sees %d bytes, the first saw %d", got, before)
			}
			removePod(t, pod)
		})
	}
}

// dataSize is the size of the file system at /data as df in the container has it, in bytes.
func dataSize(t *testing.T, c *lab.Container) int64 {
	t.Helper()
	out := exec(t, c, "df -P -k /data | tail -n 1")
	fields := strings.Fields(out)
	if len(fields) < 2 {
		t.Fatalf("df printed %q", out)
	}
	kib, err := strconv.ParseInt(fields[1], 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return kib * 1024
}

func TestAVolumeGrownWhileNoPodHasItIsLargerInTheNext(t *testing.T) {
	n := artifacts.Node(t, lab.Debian)
	v := volume(t, n, "ext4")
	pod, mount := podWithVolume(t, n, v, "first")
	c := run(t, pod, "app", idle, mount)
	exec(t, c, "echo kept >/data/file && sync") // by itself, it might not have by the removal
	before := dataSize(t, c)
	removePod(t, pod)
	// Published, but in no machine: the next mount must grow it.
	if err := v.Expand(t.Context(), pod.UID, 2*gibibyte); err != nil {
		t.Fatal(err)
	}
	if err := v.Unpublish(t.Context(), pod.UID); err != nil {
		t.Fatal(err)
	}
	pod, mount = podWithVolume(t, n, v, "second")
	c = run(t, pod, "app", idle, mount)
	if after := dataSize(t, c); after <= before {
		t.Errorf("df says %d bytes, %d before the expansion", after, before)
	}
	if got := exec(t, c, "cat /data/file"); got != "kept\n" {
		t.Errorf("the file holds %q", got)
	}
	removePod(t, pod)
}

func TestAReadOnlyMountOfAVolumeIsReadOnly(t *testing.T) {
	n := artifacts.Node(t, lab.Debian)
	v := volume(t, n, "ext4")
	pod, mount := podWithVolume(t, n, v, "pod")
	writer := run(t, pod, "writer", idle, mount)
	exec(t, writer, "echo given >/data/file")
	mount.ReadOnly = true
	reader := run(t, pod, "reader", idle, mount)
	if got := exec(t, reader, "cat /data/file"); got != "given\n" {
		t.Errorf("the reader reads %q", got)
	}
	if _, err := reader.Exec(t.Context(), "touch", "/data/other"); err == nil {
		t.Error("the reader has written")
	}
	exec(t, writer, "touch /data/other")
	removePod(t, pod)
}

func TestASecondPodIsRefusedWhileTheFirstLives(t *testing.T) {
	n := artifacts.Node(t, lab.Debian)
	v := volume(t, n, "ext4")
	pod, mount := podWithVolume(t, n, v, "first")
	c := run(t, pod, "app", "echo mine >/data/file; "+idle, mount)

	if err := v.Publish(t.Context(), uuid.NewString()); err == nil {
		t.Error("the driver has published the volume a second time")
	}
	// A driver that would allow it does not get past the shim either: the record is put where a second pod looks.
	other := uuid.NewString()
	record, err := n.Records().Get(t.Context(), v.TargetPath(pod.UID))
	if err != nil {
		t.Fatal(err)
	}
	forged := fakeTarget(t, n, other)
	if err := n.Records().Add(t.Context(), forged, record); err != nil {
		t.Fatal(err)
	}
	second, err := n.Lab.RunPod(t.Context(), lab.PodSpec{Name: "second", Handler: kubelet.Handler, UID: other})
	if err != nil {
		t.Fatal(err)
	}
	_, err = second.Run(t.Context(), lab.ContainerSpec{
		Name: "thief", Command: []string{"sh", "-c", idle},
		Mounts: []lab.Mount{{HostPath: forged, ContainerPath: "/data"}},
	})
	if err == nil {
		t.Error("two machines have the volume")
	} else {
		t.Logf("refused: %v", err)
	}
	removePod(t, second)
	if got := exec(t, c, "cat /data/file && echo more >>/data/file && cat /data/file"); got != "mine\nmine\nmore\n" {
		t.Errorf("the first pod reads %q", got)
	}
	if err := n.Records().Remove(t.Context(), forged); err != nil {
		t.Errorf("the refused pod has kept its claim: %v", err)
	}
	removePod(t, pod)
}

func TestManyVolumesInOnePod(t *testing.T) {
	n := artifacts.Node(t, lab.Debian)
	const count = 24
	uid := uuid.NewString()
	var mounts []lab.Mount
	for i := range count {
		m := publish(t, n, volume(t, n, "ext4"), uid)
		m.ContainerPath = fmt.Sprintf("/data/%d", i)
		mounts = append(mounts, m)
	}
	pod, err := n.Lab.RunPod(t.Context(), lab.PodSpec{Name: "pod", Handler: kubelet.Handler, UID: uid})
	if err != nil {
		t.Fatal(err)
	}
	c := run(t, pod, "app", idle, mounts...)
	for i := range count {
		exec(t, c, fmt.Sprintf("echo %d >/data/%d/file", i, i))
	}
	devices := strings.Fields(exec(t, c, `awk '$2 ~ "^/data/" {print $1}' /proc/mounts`))
	seen := map[string]bool{}
	for _, d := range devices {
		seen[d] = true
	}
	if len(seen) != count {
		t.Errorf("%d volumes are on the devices %v", count, devices)
	}
	removePod(t, pod)
}

func TestAVolumeIsNeverUnpluggedBetweenItsUsersAndTheirOrderDoesNotMatter(t *testing.T) {
	eachContainerd(t, func(t *testing.T, n *kubelet.Node) {
		v := volume(t, n, "ext4")
		pod, mount := podWithVolume(t, n, v, "pod")
		bystander := run(t, pod, "bystander", idle)
		reading := mount
		reading.ReadOnly = true

		// The kernel numbers disks: one that was plugged in again would have another number.
		const which = "cat /sys/block/$(awk '$2 == \"/data\" {print $1}' /proc/mounts | cut -d/ -f3)/diskseq"
		first := run(t, pod, "init-reads", which, reading)
		if code, err := first.Wait(t.Context()); err != nil || code != 0 {
			t.Fatalf("the first init container ended with %d, %v", code, err)
		}
		var want string
		eventually(t, func(context.Context) string { // containerd may be writing it still
			var err error
			if want, err = first.Logs("stdout"); err != nil || want == "" {
				return fmt.Sprintf("%q, %v", want, err)
			}
			return ""
		})
		if err := first.Remove(t.Context()); err != nil { // and nobody has it
			t.Fatal(err)
		}
		for i, m := range []lab.Mount{mount, reading, mount} { // an init container, and two lives of an app
			c := run(t, pod, fmt.Sprintf("c%d", i), idle, m)
			if got := exec(t, c, which); got != want {
				t.Errorf("container %d has disk %q, the first had %q", i, got, want)
			}
			_, err := c.Exec(t.Context(), "sh", "-c", "echo x >>/data/file")
			if (err == nil) == m.ReadOnly {
				t.Errorf("container %d, read-only %v: writing gave %v", i, m.ReadOnly, err)
			}
			if err := c.Stop(t.Context(), 20); err != nil {
				t.Error(err)
			}
			if err := c.Remove(t.Context()); err != nil {
				t.Error(err)
			}
		}
		// The last user is gone, and the pod goes on.
		exec(t, bystander, "true")
		if err := v.Expand(t.Context(), pod.UID, 2*gibibyte); err != nil {
			t.Errorf("growing it while no container has it: %v", err)
		}
		c := run(t, pod, "last", idle, mount)
		if got := exec(t, c, "cat /data/file"); got != "x\nx\n" {
			t.Errorf("the volume holds %q", got)
		}
		if got := dataSize(t, c); got < 3*gibibyte/2 {
			t.Errorf("it has %d bytes", got)
		}
		removePod(t, pod)
	})
}
