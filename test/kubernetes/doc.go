// Package kubernetes runs pods with the driver's volumes on a real Kubernetes of one node: what kubelet, the sidecars
// and containerd make of claims and pods, and what of it is left on the node when they are gone.
//
// One cluster serves all scenarios; each has names of its own, and gives everything back.
package kubernetes
