package cri

import (
	"os"
	osexec "os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/katadirect/katadirect/internal/kubelet"
	"github.com/katadirect/katadirect/internal/lab"
	"github.com/katadirect/katadirect/pkg/directvolume"
	"github.com/katadirect/katadirect/test/artifacts"
)

// loop makes a block device with a file of that size behind it.
func loop(t *testing.T, n *kubelet.Node, sizeBytes int64) (device, image string) {
	t.Helper()
	image = filepath.Join(n.Lab.Dir, "raw.img")
	f, err := os.Create(image)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := f.Truncate(sizeBytes); err != nil {
		t.Fatal(err)
	}
	out, err := osexec.Command("losetup", "--find", "--show", image).Output()
	if err != nil {
		t.Fatal(err)
	}
	device = strings.TrimSpace(string(out))
	t.Cleanup(func() {
		if out, err := osexec.Command("losetup", "--detach", device).CombinedOutput(); err != nil {
			t.Errorf("detach %s: %s", device, out)
		}
		_ = os.Remove(image)
	})
	return device, image
}

func TestARawBlockDeviceIsTheContainersAndGrowsInUse(t *testing.T) {
	eachContainerd(t, func(t *testing.T, n *kubelet.Node) {
		device, image := loop(t, n, 64<<20)
		pod := runPod(t, n, "pod")
		runWith := func(name string, d lab.Device) *lab.Container {
			t.Helper()
			c, err := pod.Run(t.Context(), lab.ContainerSpec{
				Name: name, Command: []string{"sh", "-c", idle}, Devices: []lab.Device{d},
			})
			if err != nil {
				t.Fatal(err)
			}
			return c
		}
		writer := runWith("writer", lab.Device{HostPath: device, ContainerPath: "/dev/xvda"})
		reader := runWith("reader", lab.Device{HostPath: device, ContainerPath: "/dev/block", ReadOnly: true})
		exec(t, writer, "echo content | dd of=/dev/xvda bs=512 seek=9 conv=sync,fsync 2>/dev/null")
		const read = "dd bs=512 skip=9 count=1 2>/dev/null | head -c 7"
		if got := exec(t, reader, "</dev/block "+read); got != "content" {
			t.Errorf("the reader reads %q", got)
		}
		if _, err := reader.Exec(t.Context(), "dd", "if=/dev/zero", "of=/dev/block", "count=1"); err == nil {
			t.Error("the reader has written")
		}

		if err := os.Truncate(image, 128<<20); err != nil {
			t.Fatal(err)
		}
		err := n.Manage(pod, func(c *directvolume.Client) error {
			if err := c.Resize(t.Context(), device, 128<<20); err != nil {
				return err
			}
			stats, err := c.Stats(t.Context(), device)
			if len(stats.Usage) != 1 || stats.Usage[0].Total != 128<<20 {
				t.Errorf("stats %+v", stats)
			}
			return err
		})
		if err != nil {
			t.Error(err)
		}
		const sectors = "cat /sys/dev/block/$(printf '%d:%d' $(stat -c '0x%t 0x%T' /dev/xvda))/size"
		if got := exec(t, writer, sectors); got != "262144\n" {
			t.Errorf("after the resize the container sees %q sectors of 512 bytes", got)
		}

		// No other machine gets it, whatever becomes of its containers.
		if err := writer.Remove(t.Context()); err != nil {
			t.Error(err)
		}
		second := runPod(t, n, "second")
		_, err = second.Run(t.Context(), lab.ContainerSpec{
			Name: "thief", Command: []string{"sh", "-c", idle}, Devices: []lab.Device{{HostPath: device, ContainerPath: "/dev/xvda"}},
		})
		if err == nil || !strings.Contains(err.Error(), "in use") {
			t.Errorf("a second machine with the device: %v", err)
		}
		again := runWith("again", lab.Device{HostPath: device, ContainerPath: "/dev/xvda"})
		if got := exec(t, again, "</dev/xvda "+read); got != "content" {
			t.Errorf("after a restart it reads %q", got)
		}
		removePod(t, pod)
		c, err := second.Run(t.Context(), lab.ContainerSpec{
			Name: "heir", Command: []string{"sh", "-c", idle}, Devices: []lab.Device{{HostPath: device, ContainerPath: "/dev/xvda"}},
		})
		if err != nil {
			t.Fatal(err)
		}
		if got := exec(t, c, "</dev/xvda "+read); got != "content" {
			t.Errorf("the next pod reads %q", got)
		}
		removePod(t, second)
	})
}

func TestAPrivilegedContainerOpensEveryDeviceOfItsMachine(t *testing.T) {
	n := artifacts.Node(t, lab.Debian)
	device, _ := loop(t, n, 1<<20)
	pod, err := n.Lab.RunPod(t.Context(), lab.PodSpec{Name: "pod", Handler: kubelet.Handler, Privileged: true})
	if err != nil {
		t.Fatal(err)
	}
	run := func(name string, privileged bool) *lab.Container {
		t.Helper()
		c, err := pod.Run(t.Context(), lab.ContainerSpec{
			Name: name, Command: []string{"sh", "-c", idle}, Privileged: privileged,
			Devices: []lab.Device{{HostPath: device, ContainerPath: "/dev/xvda"}}[:map[bool]int{false: 1}[privileged]],
		})
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	owner, ordinary, privileged := run("owner", false), runIn(t, pod), run("privileged", true)
	node := "mknod /disk b $(printf '%d %d' " + strings.TrimSpace(exec(t, owner, "stat -c '0x%t 0x%T' /dev/xvda")) + ") && head -c 1 /disk >/dev/null"
	if _, err := ordinary.Exec(t.Context(), "sh", "-c", node); err == nil || !strings.Contains(err.Error(), "not permitted") {
		t.Errorf("an ordinary container opens the disk of another: %v", err)
	}
	exec(t, privileged, node)
	removePod(t, pod)
}

// runIn runs an ordinary container.
func runIn(t *testing.T, pod *lab.Pod) *lab.Container { return run(t, pod, "ordinary", idle) }
