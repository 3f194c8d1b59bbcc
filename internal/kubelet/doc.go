// Package kubelet does what kubelet and the CSI sidecars do for one node, and nothing else of them: it calls the CSI
// driver over its gRPC socket and the container runtime over the CRI, in kubelet's order, with kubelet's paths and
// with its patience (a call that is refused because another one is under way is repeated).
//
// The demo and the tests under test/ are its callers. It runs the real csi-node, the real shim and a real containerd
// in a lab. What the calls should give is for the callers to say: nothing is checked here.
package kubelet
