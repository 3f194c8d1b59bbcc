// Package cluster runs a whole Kubernetes of one node: etcd, the control plane, kubelet, kube-proxy, a containerd
// with our shim as a handler, our CSI driver with its sidecars, and a registry that has every image there is. All of
// it are plain processes in the namespaces of one lab, so nothing of the host changes and one end ends everything.
//
//	func main() { lab.Init(); … }
//
//	c, err := cluster.Open(ctx, cluster.Options{BinDir: "bin", Image: guest, Images: …})
//	exec.Command(c.Program("kubectl"), "--kubeconfig", c.Kubeconfig(), "get", "pods")
//	left, err := c.Close(ctx)
//
// "make cluster" keeps one open for a person, the conformance suite opens one for itself. What is run on the cluster,
// and what images it has, is for the callers to say.
package cluster
