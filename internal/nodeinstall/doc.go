// Package nodeinstall puts the runtime on a node and takes it off again: shim, tool, guest and configuration into a
// folder of their version, a handler into containerd's or CRI-O's configuration, a label on the node.
//
//	report, err := nodeinstall.Install(ctx, nodeinstall.Options{HostRoot: "/host", …})
//
// Everything is decided before anything is changed: a plan of changes is made, which a dry run prints, and refused with
// ErrRefused where a file is not understood. Each change is whole or not there, and the same plan made again after a
// crash ends in the same state. What could keep the node from running pods, the change of the container runtime's
// configuration and its restart, is tried out first where it can be, waited for, and taken back if the runtime does not
// come up.
//
//	/opt/katadirect/versions/VERSION-HASH/   one folder for each version, never changed: running pods keep theirs
//	/opt/katadirect/current                  the version of new pods, a link; the runtime's configuration names this
//	/opt/katadirect/previous                 the one before, kept for a way back
//	/etc/katadirect/config.d/*.toml          the administrator's settings, read over each version's own
//
// What the texts of the runtimes' configurations look like is package criconf's business, how files of the host are
// reached hostfs's, and how Kubernetes is told kubenode's. The commands are katadirect node install|uninstall|status.
package nodeinstall
