// Package lab runs a private containerd in which the shim, the CSI driver and real machines can be tried without
// touching the host's own: its own mount, network, process and IPC namespaces, its own folders, and /run,
// /var/lib/cni and the network as only it sees them.
//
// The demo and the tests under test/ use it, in this order:
//
//	func main() { lab.Init(); … }         // the program becomes the namespaces' init when the lab re-executes it
//
//	l, err := lab.Open(ctx, lab.Options{Containerd: lab.Debian, Handlers: …})
//	pod, err := l.CRI().RunPodSandbox(ctx, …)
//	p, err := l.Start(lab.Process{Name: "csi-node", Args: …})
//	left := l.Leftovers()                 // everything the run has left behind, while it can still be seen
//	err = l.Close(ctx)                    // ends every process of the lab, whatever its state
//
// Every process of the lab lives in one process namespace. The kernel ends all of them when its init ends, and init
// ends with the program that opened the lab, even when that is killed: nothing outlives a run. The same namespace
// makes the search for leftovers complete, because no process can leave it.
//
// What the lab runs is the business of its callers: nothing here may know of volumes, records or demos.
package lab
