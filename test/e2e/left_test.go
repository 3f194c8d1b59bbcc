package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// nothingIsLeft waits until all that scenarios have made is gone, from the API to the nodes' disks: the API forgets a
// claim before the driver has deleted the volume.
func nothingIsLeft(_ *testing.T, k *kube) {
	k.step("the namespaces go")
	for _, one := range append(together, alone...) {
		k.until("the end of namespace "+one.namespace, func() (string, bool) {
			said := k.field("namespace/"+one.namespace, "{.status}")
			return said, said == ""
		})
	}
	k.step("no PersistentVolumes, no contents of snapshots")
	for _, kind := range []string{"pv", "volumesnapshotcontent"} {
		k.until("the end of every "+kind, func() (string, bool) {
			left := k.field(kind, "{.items[*].metadata.name}")
			return left, left == ""
		})
	}
	for _, at := range []struct {
		what string
		look func() (string, error)
	}{
		{"nothing in the pools", k.inThePool},
		{"no loop devices", k.loopDevices},
		{"no mounts of volumes", k.volumeMounts},
		{"nothing of volumes in kubelet's folders", k.inKubeletsFolders},
		{"no records, no sandboxes", k.ofTheRuntime},
		{"no machines, no shims", k.machines},
	} {
		k.step(at.what)
		k.until(at.what, func() (string, bool) {
			left, err := at.look()
			if err != nil {
				return err.Error(), false
			}
			return left, left == ""
		})
	}
}

// inThePool is what any node's pool has in it.
func (k *kube) inThePool() (string, error) {
	left := ""
	for _, node := range k.nodes() {
		entries, err := os.ReadDir(k.PoolOf(node))
		if err != nil {
			return "", err
		}
		for _, e := range entries {
			if e.Name() != ".lock" {
				left += node + ": " + e.Name() + "\n"
			}
		}
	}
	return left, nil
}

// found lists what any node has at places.
func (k *kube) found(places ...string) (string, error) {
	left := ""
	for _, node := range k.nodes() {
		for _, place := range places {
			found, err := filepath.Glob(k.Node(node).Path(place))
			if err != nil {
				return "", err
			}
			for _, at := range found {
				left += node + ": " + at + "\n"
			}
		}
	}
	return left, nil
}

// loopDevices are those over the images of this cluster's pools: others may run beside it.
func (k *kube) loopDevices() (string, error) {
	left := ""
	for _, node := range k.nodes() {
		var pool unix.Stat_t
		if err := unix.Stat(k.PoolOf(node), &pool); err != nil {
			return "", err
		}
		devices, err := filepath.Glob("/sys/block/loop*/loop/backing_file")
		if err != nil {
			return "", err
		}
		for _, file := range devices {
			device := "/dev/" + strings.Split(file, "/")[3]
			f, err := os.Open(device)
			if err != nil {
				continue // it has just gone
			}
			info, err := unix.IoctlLoopGetStatus64(int(f.Fd()))
			if err == nil && info.Device == pool.Dev {
				backing, _ := os.ReadFile(file)
				left += node + ": " + device + " of " + string(backing)
			}
			_ = f.Close()
		}
	}
	return left, nil
}

// placesOfMounts are where kubelet and the driver mount volumes: at staging paths, for pods, and parts of them.
var placesOfMounts = []string{"plugins/kubernetes.io/csi/", "kubernetes.io~csi", "volumeDevices", "volume-subpaths"}

func (k *kube) volumeMounts() (string, error) {
	left := ""
	for _, node := range k.nodes() {
		mounts, err := os.ReadFile(fmt.Sprintf("/proc/%d/mountinfo", k.Node(node).InitPID()))
		if err != nil {
			return "", err
		}
		for line := range strings.Lines(string(mounts)) {
			if slices.ContainsFunc(placesOfMounts, func(place string) bool { return strings.Contains(line, place) }) {
				left += node + ": " + line
			}
		}
	}
	return left, nil
}

// inKubeletsFolders is what kubelet keeps of volumes, of each in folders of its own: where it is staged, and what pods have
// of it.
func (k *kube) inKubeletsFolders() (string, error) {
	const (
		kubelet = "/var/lib/kubelet/"
		csi     = kubelet + "plugins/kubernetes.io/csi/"
	)
	return k.found(
		csi+"csi.katadirect.io/*", csi+"volumeDevices/*/*",
		kubelet+"pods/*/volumes/kubernetes.io~csi/*", kubelet+"pods/*/volumeDevices/kubernetes.io~csi/*", kubelet+"pods/*/volume-subpaths/*")
}

// ofTheRuntime is what the driver and the shims keep below /run.
func (k *kube) ofTheRuntime() (string, error) {
	return k.found("/run/kata-containers/shared/direct-volumes/*", "/run/vc/sbs/*", "/run/katadirect/csi/staged/*")
}

// machines are the processes of any.
func (k *kube) machines() (string, error) {
	left := ""
	for _, node := range k.nodes() {
		for _, program := range []string{"qemu-system", "virtiofsd", "containerd-shim-katadirect"} {
			pids, err := k.Node(node).FindAll(program)
			if err != nil {
				return "", err
			}
			if len(pids) > 0 {
				left += fmt.Sprint(node, ": ", program, " with the process ids ", pids, "\n")
			}
		}
	}
	return left, nil
}

// nodes are the names of all nodes.
func (k *kube) nodes() []string {
	k.t.Helper()
	return strings.Fields(k.field("node", "{.items[*].metadata.name}"))
}
