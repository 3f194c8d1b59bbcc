// Package shimv2 is the process side of a containerd shim: its commands, its socket, its log and its events.
//
//	containerd ── exec "shim … start" ──▶ start: makes the socket, starts the daemon, prints the address
//	                                        │
//	containerd ◀════ ttrpc over the socket ═▶ daemon (Config.Serve answers)
//	                                        │
//	containerd ◀──── events over ttrpc ─────┘
//	containerd ── exec "shim … delete" ──▶ delete: gives back what a dead daemon left (Config.Cleanup)
//
// It speaks the oldest form of the protocol, a plain address on stdout, which containerd 1.6, 1.7 and 2.x and CRI-O
// all take. containerd's own library for shims does not: its newer versions refuse the older daemons.
//
// cmd/shim calls Main with the pod's side filled in. What a task, a container or a machine is must never move in
// here.
package shimv2
