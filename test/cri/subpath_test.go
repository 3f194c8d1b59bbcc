package cri

import (
	"strings"
	"testing"

	"github.com/katadirect/katadirect/internal/kubelet"
	"github.com/katadirect/katadirect/internal/lab"
	"github.com/katadirect/katadirect/test/artifacts"
)

// subPath prepares a part of the volume for a container, as kubelet does.
func subPath(t *testing.T, v *kubelet.Volume, pod *lab.Pod, container string, index int, part string) lab.Mount {
	t.Helper()
	at, err := v.SubPath(t.Context(), pod.UID, container, index, part)
	if err != nil {
		t.Fatal(err)
	}
	return lab.Mount{HostPath: at, ContainerPath: "/part/" + strings.ReplaceAll(part, "/", "-")}
}

func TestPartsOfAVolumeAreTheGuestsAndNotTheHosts(t *testing.T) {
	eachContainerd(t, func(t *testing.T, n *kubelet.Node) {
		v := volume(t, n, "ext4")
		pod, whole := podWithVolume(t, n, v, "pod")

		// Two containers with a part each, and one that they share; what is missing is made.
		one := run(t, pod, "one", idle, subPath(t, v, pod, "one", 0, "a/b"), subPath(t, v, pod, "one", 1, "both"))
		two := run(t, pod, "two", idle, subPath(t, v, pod, "two", 0, "c"), subPath(t, v, pod, "two", 1, "both"))
		exec(t, one, "echo one >/part/a-b/file; echo shared >/part/both/file; ln -s /etc /part/both/out")
		exec(t, two, "echo two >/part/c/file")
		if got := exec(t, two, "cat /part/both/file"); got != "shared\n" {
			t.Errorf("the second container reads %q", got)
		}
		if got := exec(t, one, `awk '$2 ~ "^/part" {print $1, $3}' /proc/mounts`); got != "/dev/vda ext4\n/dev/vda ext4\n" {
			t.Errorf("the parts are mounted from %q", got)
		}
		// A third has all of the volume, while it is mounted once; a file is a part too.
		all := run(t, pod, "all", idle, whole, subPath(t, v, pod, "all", 0, "both/file"))
		if got := exec(t, all, "cat /data/a/b/file /data/c/file /part/both-file"); got != "one\ntwo\nshared\n" {
			t.Errorf("the whole volume holds %q", got)
		}
		// The guest's own folders are out of reach, whatever links the pod has planted.
		_, err := pod.Run(t.Context(), lab.ContainerSpec{
			Name: "thief", Command: []string{"sh", "-c", idle}, Mounts: []lab.Mount{subPath(t, v, pod, "thief", 0, "both/out")},
		})
		if err == nil || !strings.Contains(err.Error(), "leads out of the volume") {
			t.Errorf("a link out of the volume: %v", err)
		}
		// A part survives its container, and the volume the others.
		for _, c := range []*lab.Container{all, one} {
			if err := c.Remove(t.Context()); err != nil {
				t.Error(err)
			}
		}
		again := run(t, pod, "one-again", idle, subPath(t, v, pod, "one-again", 0, "a/b"))
		if got := exec(t, again, "cat /part/a-b/file"); got != "one\n" {
			t.Errorf("after a restart the part holds %q", got)
		}
		removePod(t, pod)
		// What kubelet has made in the host's empty folder is in nobody's way: the cleanup unpublishes.
	})
}

func TestAReadOnlyPartOfAVolumeIsReadOnly(t *testing.T) {
	n := artifacts.Node(t, lab.Debian)
	v := volume(t, n, "xfs")
	pod, _ := podWithVolume(t, n, v, "pod")
	reader := subPath(t, v, pod, "app", 0, "x")
	reader.ReadOnly = true
	c := run(t, pod, "app", idle, reader)
	if _, err := c.Exec(t.Context(), "touch", "/part/x/file"); err == nil {
		t.Error("a read-only part was written to")
	}
	if got := exec(t, c, "stat -c %a /part/x"); got != "755\n" {
		t.Errorf("the part has mode %q, not that of the volume's root", got)
	}
	removePod(t, pod)
}
