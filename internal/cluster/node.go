package cluster

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/katadirect/katadirect/internal/lab"
)

// maxNodes is how many nodes a cluster can have: who they are, the API server is told at its start.
const maxNodes = 2

// node is one of the cluster's nodes: a lab of its own, in which kubelet, kube-proxy, containerd and the pods run. The
// first one's has the control plane, too.
type node struct {
	cluster *Cluster
	lab     *lab.Lab
	index   int
}

// name is the node's in Kubernetes.
func nodeNameOf(index int) string {
	if index == 0 {
		return nodeName
	}
	return fmt.Sprintf("%s-%d", nodeName, index+1)
}

func nodeIPOf(index int) string { return fmt.Sprintf("10.64.0.%d", index+1) }

// podCIDROf is the part of the pods' network that is the node's.
func podCIDROf(index int) string { return fmt.Sprintf("10.244.%d.0/20", 16*index) }

func (n *node) name() string { return nodeNameOf(n.index) }

func (n *node) ip() string { return nodeIPOf(n.index) }

// path is a file below the folder of the node's lab.
func (n *node) path(elem ...string) string {
	return filepath.Join(append([]string{n.lab.Dir}, elem...)...)
}

// podNetwork connects every pod to the node by a pair of interfaces of its own. Everything is routed, so that services
// work between pods, too; with a bridge that would want a kernel module.
func podNetwork(index int) string {
	return `{"cniVersion": "1.0.0", "name": "pods", "plugins": [
  {"type": "ptp", "ipMasq": false, "ipam": {
    "type": "host-local", "dataDir": "/run/pod-ipam", "ranges": [[{"subnet": "` + podCIDROf(index) + `"}]],
    "routes": [{"dst": "0.0.0.0/0"}]}},
  {"type": "portmap", "capabilities": {"portMappings": true}, "snat": true}]}`
}

// openNode opens a node's lab, with containerd in it.
func (c *Cluster) openNode(ctx context.Context, index int) (_ *node, err error) {
	n := &node{cluster: c, index: index}
	n.lab, err = lab.Open(ctx, lab.Options{
		Containerd: lab.V2, Cache: c.opts.Cache, BinDir: c.opts.BinDir,
		DefaultHandler: c.opts.DefaultHandler,
		Network:        podNetwork(index), Registry: registryAddr, SandboxImage: PauseImage,
		Handlers: []lab.Handler{{
			Name: Handler, RuntimeType: "io.containerd.katadirect.v2", Config: shimConfig(c.opts),
		}},
	})
	if err != nil {
		return nil, err
	}
	c.nodes = append(c.nodes, n)
	return n, nil
}

//go:embed kubelet.yaml
var kubeletConfig string

// prepare gives the node its address, and kubelet and the driver the folders whose paths are not for choosing.
func (n *node) prepare(ctx context.Context) error {
	if err := n.lab.InNetwork(n.makeLink); err != nil {
		return fmt.Errorf("give the node an address: %w", err)
	}
	if _, err := n.lab.Run(ctx, lab.Command{Name: "sysctl", Path: "/bin/sh",
		Args: []string{"-c", "echo 1 > /proc/sys/net/ipv4/ip_forward"}}); err != nil {
		return err
	}
	for from, to := range map[string]string{
		n.kubeletDir():               "/var/lib/kubelet",
		n.path("katadirect"):         "/var/lib/katadirect",
		n.path("logs", "pods"):       "/var/log/pods",
		n.path("logs", "containers"): "/var/log/containers",
	} {
		if err := n.bind(ctx, from, to); err != nil {
			return err
		}
	}
	return n.ownRun(ctx)
}

// ownRun gives the cluster a /run/katadirect of its own, with what was found out about this host in it: the lab shares
// the host's, but the driver keeps there what is staged.
func (n *node) ownRun(ctx context.Context) error {
	_, err := n.lab.Run(ctx, lab.Command{Name: "sh", Path: "/bin/sh", Args: []string{"-euc",
		`mkdir "$0"; find /run/katadirect -maxdepth 1 -type f ! -name "$1" -exec cp -p -t "$0" {} +; mount --bind "$0" /run/katadirect`,
		n.path("run"), filepath.Base(settingsFile)}})
	return err
}

// bind shows the folder from of the run at another place, inside the lab only.
func (n *node) bind(ctx context.Context, from, to string) error {
	if err := os.MkdirAll(from, 0o755); err != nil {
		return err
	}
	if err := os.Mkdir(to, 0o755); err != nil && !errors.Is(err, os.ErrExist) { // see sharedDirs
		return err
	}
	_, err := n.lab.Run(ctx, lab.Command{Name: "mount", Path: "/bin/mount", Args: []string{"--bind", from, to}})
	return err
}

// kubeletDir is /var/lib/kubelet as it can be reached from everywhere.
func (n *node) kubeletDir() string { return n.path("kubelet") }

// start starts kubelet and kube-proxy.
func (n *node) start(ctx context.Context) error {
	c, config := n.cluster, n.path("kubelet.yaml")
	cgroup := "/" + filepath.Base(n.lab.Dir)
	if err := makeCgroup(cgroup); err != nil {
		return err
	}
	err := writeTemplate(config, kubeletConfig, map[string]any{
		"Socket": n.path("containerd.sock"), "Cgroup": cgroup, "CA": c.pki.path(caCert), "Dir": n.lab.Dir,
		"DNS": dnsServiceIP, "Address": n.ip(),
	})
	if err != nil {
		return err
	}
	if err := os.WriteFile(n.path("resolv.conf"), []byte("nameserver "+dnsServiceIP+"\n"), 0o644); err != nil {
		return err
	}
	_, err = n.lab.Start(lab.Command{Name: "kubelet", Path: c.Program("kubelet"), Args: []string{
		"--kubeconfig=" + c.pki.kubeconfig(kubeletIdentity(n.index)), "--config=" + config, "--root-dir=/var/lib/kubelet",
		"--cert-dir=" + n.path("kubelet-pki"), "--hostname-override=" + n.name(), "--node-ip=" + n.ip(),
	}})
	if err != nil {
		return err
	}
	_, err = n.lab.Start(lab.Command{Name: "kube-proxy", Path: c.Program("kube-proxy"), Args: []string{
		"--kubeconfig=" + c.pki.kubeconfig("proxy"), "--hostname-override=" + n.name(), "--cluster-cidr=" + podCIDR,
		"--proxy-mode=iptables", "--bind-address=" + n.ip(), "--healthz-bind-address=127.0.0.1:10256",
		// The limits are the kernel's, for every network.
		"--conntrack-max-per-core=0", "--conntrack-tcp-timeout-established=0", "--conntrack-tcp-timeout-close-wait=0",
	}})
	return err
}

// readyTimeout bounds the wait for a cluster that has been started, on a busy machine.
const readyTimeout = 3 * time.Minute

// waitReady returns when a pod can be scheduled to the node.
func (c *Cluster) waitReady(ctx context.Context, n *node) error {
	ctx, cancel := context.WithTimeout(ctx, readyTimeout)
	defer cancel()
	for _, wait := range [][]string{
		{"wait", "--for=create", "node/" + n.name()},
		{"wait", "--for=condition=Ready", "node/" + n.name()},
		{"wait", "--for=create", "serviceaccount/default"},
	} {
		if out, err := c.Kubectl(ctx, append(wait, "--timeout="+readyTimeout.String())...); err != nil {
			return fmt.Errorf("wait for the node: %w: %s\n%s", err, out, c.Tails("kubelet", "containerd"))
		}
	}
	for {
		taints, err := c.Kubectl(ctx, "get", "node", n.name(), "-o", "jsonpath={.spec.taints}")
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

// removePods takes every pod's machine and containers away while containerd can still do it. It goes on while containerd
// refuses because it is still on kubelet's last call.
func (n *node) removePods(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, removeTimeout)
	defer cancel()
	if err := n.lab.StopProcess(ctx, "kubelet"); err != nil {
		return err
	}
	for {
		err := n.tryRemovePods(ctx)
		if err == nil {
			return nil
		}
		select {
		case <-time.After(time.Second):
		case <-ctx.Done():
			return err
		}
	}
}

func (n *node) tryRemovePods(ctx context.Context) error {
	pods, err := n.lab.Pods(ctx)
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

// label says of the node that the runtime is installed. It is in containerd's configuration from the beginning.
func (n *node) label(ctx context.Context) error {
	_, err := n.cluster.Kubectl(ctx, "label", "node", n.name(), "katadirect.io/runtime=true")
	return err
}

// Find lists the processes of the first node, those in its containers too, whose command line has all of the words in it.
func (c *Cluster) Find(words ...string) ([]int, error) { return c.lab.FindAll(words...) }
