// Package task is containerd's Task service: what containerd, CRI-O and ctr ask of a shim, answered for the
// containers of one pod that share one virtual machine.
//
//	containerd ──ttrpc──▶ Service ──▶ Sandbox (the machine and the agent in it)
//	           ◀─events── Publisher
//	           ◀═fifos══▶ stdio
//
// It owns the table of containers and execs, the states they may be in, the copying between containerd's fifos and
// the guest's streams, and the order in which exits are reported. cmd/shim makes one Service per shim process and
// pkg/runtime/shimv2 serves it.
//
// What a container is made of (mounts, volumes, the agent's protocol, QEMU) must never move in here: it stays behind
// the Sandbox interface. So do sockets, flags and start-up, which are shimv2's.
//
// Locks: Service.mu guards the table, container.mu the execs of one container, process.mu the state of one process.
// None is held across a call to the Sandbox, so a slow create of one container never delays an answer about another.
package task
