// Package boot does what the first process of a machine must do before it can
// serve anybody: it mounts the kernel's file systems, makes the initramfs a
// root that containers can pivot away from, brings the loopback interface up,
// reads the kernel's command line, finds a console for the log, and at the end
// powers the machine off.
//
// cmd/agent calls it, in the order of the functions in boot.go. What happens
// once a shim has connected belongs elsewhere.
package boot
