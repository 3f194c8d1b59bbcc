package cluster

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/vishvananda/netlink"

	"github.com/katadirect/katadirect/internal/lab"
)

// podNetwork connects every pod to the node by a pair of interfaces of its own. Everything is routed, so that services
// work between pods, too; with a bridge that would want a kernel module.
const podNetwork = `{"cniVersion": "1.0.0", "name": "pods", "plugins": [
  {"type": "ptp", "ipMasq": false, "ipam": {
    "type": "host-local", "dataDir": "/run/pod-ipam", "ranges": [[{"subnet": "` + podCIDR + `"}]],
    "routes": [{"dst": "0.0.0.0/0"}]}},
  {"type": "portmap", "capabilities": {"portMappings": true}, "snat": true}]}`

//go:embed kubelet.yaml
var kubeletConfig string

// prepareNode gives the node its address, and kubelet the folders whose paths are not for choosing.
func (c *Cluster) prepareNode(ctx context.Context) error {
	err := c.lab.InNetwork(func() error {
		// A bridge of nothing: not every kernel has dummy interfaces.
		link := &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "node0"}}
		addr, err := netlink.ParseAddr(nodeIP + "/24")
		if err != nil {
			return err
		}
		_, services, err := net.ParseCIDR(serviceCIDR)
		if err != nil {
			return err
		}
		for _, step := range []func() error{
			func() error { return netlink.LinkAdd(link) },
			func() error { return netlink.AddrAdd(link, addr) },
			func() error { return netlink.LinkSetUp(link) },
			// kube-proxy gives what the node itself sends to a service another destination, but not before a route for
			// the service's own address has been found.
			func() error { return netlink.RouteAdd(&netlink.Route{LinkIndex: link.Index, Dst: services}) },
		} {
			if err := step(); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("give the node an address: %w", err)
	}
	if _, err := c.lab.Run(ctx, lab.Command{Name: "sysctl", Path: "/bin/sh",
		Args: []string{"-c", "echo 1 > /proc/sys/net/ipv4/ip_forward"}}); err != nil {
		return err
	}
	for from, to := range map[string]string{
		c.kubeletDir():               "/var/lib/kubelet",
		c.path("logs", "pods"):       "/var/log/pods",
		c.path("logs", "containers"): "/var/log/containers",
	} {
		if err := c.bind(ctx, from, to); err != nil {
			return err
		}
	}
	return nil
}

// bind shows the folder from of the run at another place, inside the lab only.
func (c *Cluster) bind(ctx context.Context, from, to string) error {
	if err := os.MkdirAll(from, 0o755); err != nil {
		return err
	}
	switch err := os.Mkdir(to, 0o755); {
	case err == nil:
		c.madeDirs = append(c.madeDirs, to)
	case !errors.Is(err, os.ErrExist):
		return err
	}
	_, err := c.lab.Run(ctx, lab.Command{Name: "mount", Path: "/bin/mount", Args: []string{"--bind", from, to}})
	return err
}

// kubeletDir is /var/lib/kubelet as it can be reached from everywhere.
func (c *Cluster) kubeletDir() string { return c.path("kubelet") }

// startNode starts kubelet and kube-proxy.
func (c *Cluster) startNode(ctx context.Context) error {
	config := c.path("kubelet.yaml")
	cgroup := "/" + filepath.Base(c.lab.Dir)
	if err := makeCgroup(cgroup); err != nil {
		return err
	}
	err := writeTemplate(config, kubeletConfig, map[string]any{
		"Socket": c.path("containerd.sock"), "Cgroup": cgroup, "CA": c.pki.path(caCert), "Dir": c.lab.Dir,
		"DNS": dnsServiceIP, "Address": nodeIP,
	})
	if err != nil {
		return err
	}
	if err := os.WriteFile(c.path("resolv.conf"), []byte("nameserver "+dnsServiceIP+"\n"), 0o644); err != nil {
		return err
	}
	_, err = c.lab.Start(lab.Command{Name: "kubelet", Path: c.Program("kubelet"), Args: []string{
		"--kubeconfig=" + c.pki.kubeconfig("kubelet"), "--config=" + config, "--root-dir=/var/lib/kubelet",
		"--cert-dir=" + c.path("kubelet-pki"), "--hostname-override=" + nodeName, "--node-ip=" + nodeIP,
	}})
	if err != nil {
		return err
	}
	_, err = c.lab.Start(lab.Command{Name: "kube-proxy", Path: c.Program("kube-proxy"), Args: []string{
		"--kubeconfig=" + c.pki.kubeconfig("proxy"), "--hostname-override=" + nodeName, "--cluster-cidr=" + podCIDR,
		"--proxy-mode=iptables", "--bind-address=" + nodeIP, "--healthz-bind-address=127.0.0.1:10256",
		// The limits are the kernel's, for every network.
		"--conntrack-max-per-core=0", "--conntrack-tcp-timeout-established=0", "--conntrack-tcp-timeout-close-wait=0",
	}})
	return err
}

// readyTimeout bounds the wait for a cluster that has been started, on a busy machine.
const readyTimeout = 3 * time.Minute

// waitReady returns when a pod can be scheduled.
func (c *Cluster) waitReady(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, readyTimeout)
	defer cancel()
	for _, wait := range [][]string{
		{"wait", "--for=create", "node/" + nodeName},
		{"wait", "--for=condition=Ready", "node/" + nodeName},
		{"wait", "--for=create", "serviceaccount/default"},
		{"wait", "--for=create", "csinode/" + nodeName},
		{"wait", "--for=jsonpath={.spec.drivers[0].name}=" + driverName, "csinode/" + nodeName},
	} {
		if out, err := c.Kubectl(ctx, append(wait, "--timeout="+readyTimeout.String())...); err != nil {
			return fmt.Errorf("wait for the node: %w: %s\n%s", err, out, c.Tails("kubelet", "containerd"))
		}
	}
	for {
		taints, err := c.Kubectl(ctx, "get", "node", nodeName, "-o", "jsonpath={.spec.taints}")
		if err == nil && taints == "" {
			return nil
		}
		select {
		case <-time.After(200 * time.Millisecond):
		case <-ctx.Done():
			return fmt.Errorf("the node keeps its taints %s: %w", taints, ctx.Err())
		}
	}
}

// removeTimeout bounds the removal of all pods. What then is left ends with the lab.
const removeTimeout = 45 * time.Second

// removePods takes every pod's machine and containers away while containerd can still do it.
func (c *Cluster) removePods(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, removeTimeout)
	defer cancel()
	if err := c.lab.StopProcess(ctx, "kubelet"); err != nil {
		return err
	}
	pods, err := c.lab.Pods(ctx)
	if err != nil {
		return err
	}
	errs := make([]error, len(pods))
	var all sync.WaitGroup
	for i, pod := range pods {
		all.Go(func() { errs[i] = pod.Remove(ctx) })
	}
	all.Wait()
	return errors.Join(errs...)
}

// Find lists the processes of the cluster whose command line has all of the words in it.
func (c *Cluster) Find(words ...string) ([]int, error) { return c.lab.Find(words...) }
