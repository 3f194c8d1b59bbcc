package cluster

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"syscall"
	"time"

	"github.com/katadirect/katadirect/internal/lab"
)

// controlPlane is what a reboot leaves alone: as on a cluster whose control plane is on machines of its own.
var controlPlane = []string{"etcd", APIServer, "kube-controller-manager", "kube-scheduler"}

// forget is what a reboot does to a node's files and mounts: none of kubelet's, the pods' and containerd's mounts is left,
// /run is empty, and what containerd keeps there.
const forget = `
run=$0 state=$1
points() { awk '{print $5}' /proc/self/mountinfo | grep -E "$1" | sort -r; }
for round in 1 2 3 4 5; do
	for point in $(points '^(/var/lib/kubelet|/run|'"$state"'|/var/lib/katadirect)/.'); do
		[ "$point" = /run/katadirect ] || umount -l "$point" 2>/dev/null || :
	done
done
find /run -xdev -mindepth 1 -maxdepth 1 ! -name katadirect -exec rm -rf --one-file-system {} +
find "$run" "$state" -xdev -mindepth 1 -delete
`

// Reboot ends everything on the first node at once, without a warning, forgets what a reboot forgets, and starts the node
// again. It returns when kubelet works; pods come after that.
func (c *Cluster) Reboot(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, readyTimeout)
	defer cancel()
	if err := c.killNode(ctx); err != nil {
		return err
	}
	if err := c.lab.DetachLoops(); err != nil {
		return err
	}
	_, err := c.lab.Run(ctx, lab.Command{Name: "reboot", Path: "/bin/bash", Args: []string{"-c", forget, c.path("run"), c.path("state")}})
	if err != nil {
		return err
	}
	if err := c.nodes[0].mountPool(ctx); err != nil {
		return err
	}
	for _, name := range []string{Containerd, Kubelet, "kube-proxy"} {
		if err := c.Again(ctx, name, ""); err != nil {
			return fmt.Errorf("after the reboot: %w", err)
		}
	}
	return nil
}

// killNode kills every process of the cluster but the control plane's.
func (c *Cluster) killNode(ctx context.Context) error {
	var stay []int
	for _, name := range controlPlane {
		stay = append(stay, c.lab.Process(name).PID())
	}
	for {
		all, err := c.lab.FindAll()
		if err != nil {
			return err
		}
		all = slices.DeleteFunc(all, func(pid int) bool { return slices.Contains(stay, pid) })
		if len(all) == 0 {
			return nil
		}
		for _, pid := range all {
			if err := syscall.Kill(pid, syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
				return err
			}
		}
		select {
		case <-time.After(20 * time.Millisecond):
		case <-ctx.Done():
			return fmt.Errorf("processes %v do not end: %w", all, ctx.Err())
		}
	}
}
