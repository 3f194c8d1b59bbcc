package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// nothingIsLeft waits until all that scenarios have made is gone, from the API to the node's disk: the API forgets a
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
		{"nothing in the pool", k.inThePool},
		{"no loop devices", k.loopDevices},
		{"no mounts of volumes", k.volumeMounts},
		{"no records, no sandboxes, no machines", k.ofTheRuntime},
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

func (k *kube) inThePool() (string, error) {
	entries, err := os.ReadDir(filepath.Join(k.Pool()))
	left := ""
	for _, e := range entries {
		if e.Name() != ".lock" {
			left += e.Name() + "\n"
		}
	}
	return left, err
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

func (k *kube) volumeMounts() (string, error) {
	left := ""
	for _, node := range k.nodes() {
		mounts, err := os.ReadFile(fmt.Sprintf("/proc/%d/mountinfo", k.Node(node).InitPID()))
		if err != nil {
			return "", err
		}
		for line := range strings.Lines(string(mounts)) {
			if strings.Contains(line, "volumeDevices") || strings.Contains(line, "kubernetes.io~csi") {
				left += node + ": " + line
			}
		}
	}
	return left, nil
}

// ofTheRuntime is what the driver and the shims keep below /run, and every QEMU.
func (k *kube) ofTheRuntime() (string, error) {
	left := ""
	for _, node := range k.nodes() {
		lab := k.Node(node)
		for _, dir := range []string{"kata-containers/shared/direct-volumes", "vc/sbs", "katadirect/csi/staged"} {
			found, err := filepath.Glob(lab.Path(filepath.Join("/run", dir, "*")))
			if err != nil {
				return "", err
			}
			left += strings.Join(found, "\n")
		}
		machines, err := lab.Find("qemu-system")
		if err != nil {
			return "", err
		}
		if len(machines) > 0 {
			left += fmt.Sprint(node, ": machines with the process ids ", machines, "\n")
		}
	}
	return left, nil
}

// nodes are the names of all nodes.
func (k *kube) nodes() []string {
	k.t.Helper()
	return strings.Fields(k.field("node", "{.items[*].metadata.name}"))
}
