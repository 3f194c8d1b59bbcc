// Package sandbox is one pod's virtual machine and what runs in it: it puts the machine, the agent's client, the
// file share, the volumes and the management socket together, in the right order, and takes them apart again in
// the reverse order on every way out.
//
// The task service calls it, one Sandbox per shim process. containerd's protocol, its events and its fifos stay
// out of here, and so does everything that only one of the parts needs to know.
package sandbox
